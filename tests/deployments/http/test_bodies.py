import gzip

import pytest
from pydantic import ValidationError

from deployments.http.bodies import Links, LiveMetadata, MediaMetadata
from models.types import Modality
from pipelines.types import Participant
from tests.deployments.http.site import Site, problem


def test_an_order_reads_participants_and_consent() -> None:
    metadata = MediaMetadata(participants="agent, customer", consent="agent=text")

    assert metadata.participant_list() == (Participant.AGENT, Participant.CUSTOMER)
    assert metadata.consent_policy() == {Participant.AGENT: frozenset({Modality.TEXT})}
    assert MediaMetadata(participants="mixed").consent_policy() is None


def test_a_recording_of_which_nobody_says_who_is_heard_is_mixed_and_a_text_or_picture_one_customers() -> None:
    for metadata in (MediaMetadata(), LiveMetadata(), MediaMetadata.model_validate_json("{}")):
        assert metadata.participant_list() == (Participant.MIXED,)
        assert metadata.speaker() is Participant.CUSTOMER
    assert MediaMetadata(participants="mixed").speaker() is Participant.MIXED
    assert MediaMetadata(participants="agent,customer").speaker() is Participant.AGENT


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"participants": "bob"}, "participants is 'bob': name each of agent, customer, mixed at most once"),
        ({"participants": "customer", "consent": "all"}, "consent holds 'all': write customer=audio+video+text"),
    ],
)
def test_a_field_that_is_refused_is_named_as_a_field_and_as_no_header(values: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        MediaMetadata.model_validate(values)

    (error,) = refused.value.errors()
    assert error["msg"].startswith(f"Value error, {said}")


def test_the_first_message_of_live_media_names_no_call_which_stands_in_the_path() -> None:
    with pytest.raises(ValidationError):
        LiveMetadata.model_validate({"participants": "customer", "call_id": "a-17"})


def test_the_links_of_a_call_begin_with_its_path() -> None:
    assert Links.of("a-17").events == "/v1/calls/a-17/events"


async def bodies_of_routes(site: Site) -> list[tuple[str, str]]:
    """Method and path of every route that takes a body."""
    paths = (await site.client.get("/openapi.json")).json()["paths"]
    return [
        (method, path) for path, methods in paths.items() for method, one in methods.items() if "requestBody" in one
    ]


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "br", "identity, gzip", "x" * 100])
async def test_a_compressed_body_is_refused_by_every_route_that_takes_one(site: Site, coding: str) -> None:
    routes = await bodies_of_routes(site)
    assert len(routes) >= 2
    for method, path in routes:
        for kind, content in (
            ("audio/wav", b"RIFF"),
            ("application/json", b"{}"),
            ("multipart/form-data; boundary=x", b"--x"),
        ):
            headers = {"content-encoding": coding, "content-type": kind}
            answer = await site.client.request(
                method, path, params={"participants": "customer"}, content=gzip.compress(content), headers=headers
            )
            assert "Content-Encoding" in problem(answer, 415, "content_encoding")["detail"]


async def test_a_body_that_is_said_to_be_as_it_is_is_taken(site: Site) -> None:
    answer = await site.client.post("/v1/analyze", json={"text": "Well."}, headers={"content-encoding": "identity"})
    assert answer.status_code == 200
