import pytest
from pydantic import ValidationError

from deployments.http.bodies import Links, LiveOrder, MediaOrder
from models.types import Modality
from pipelines.types import Participant


def test_an_order_reads_participants_and_consent() -> None:
    order = MediaOrder(participants="agent, customer", consent="agent=text")

    assert order.everyone() == (Participant.AGENT, Participant.CUSTOMER)
    assert order.policy() == {Participant.AGENT: frozenset({Modality.TEXT})}
    assert MediaOrder(participants="mixed").policy() is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"participants": "bob"}, "participants is 'bob': name each of agent, customer, mixed at most once"),
        ({"participants": "customer", "consent": "all"}, "consent holds 'all': write customer=audio+video+text"),
    ],
)
def test_a_field_that_is_refused_is_named_as_a_field_and_as_no_header(values: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        MediaOrder.model_validate(values)

    (error,) = refused.value.errors()
    assert error["msg"].startswith(f"Value error, {said}")


def test_the_first_message_of_live_media_names_no_call_which_stands_in_the_path() -> None:
    with pytest.raises(ValidationError):
        LiveOrder.model_validate({"participants": "customer", "call_id": "a-17"})


def test_the_links_of_a_call_begin_with_its_path() -> None:
    assert Links.of("a-17").events == "/v1/calls/a-17/events"
