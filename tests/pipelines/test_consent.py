"""What may be analysed of whom, as the header and the settings write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.types import Modality
from pipelines.consent import format_consent, granted, parse_consent
from pipelines.errors import BadFragmentError
from pipelines.types import Consent, Participant

POLICIES = st.dictionaries(
    st.sampled_from(Participant), st.frozensets(st.sampled_from(Modality)), max_size=len(Participant)
)


def test_a_policy_names_modalities_for_each_participant() -> None:
    assert parse_consent(" customer = audio+video + text ; agent=text; ") == {
        Participant.CUSTOMER: frozenset(Modality),
        Participant.AGENT: frozenset({Modality.TEXT}),
    }


def test_who_is_not_named_or_has_no_modality_is_not_analysed() -> None:
    assert parse_consent("") == {}
    assert parse_consent("agent=") == {Participant.AGENT: frozenset()}


@given(POLICIES)
def test_a_policy_that_is_written_reads_the_same(policy: Consent) -> None:
    assert parse_consent(format_consent(policy)) == policy


@pytest.mark.parametrize(
    "text",
    ["customer", "caller=audio", "customer=audio;customer=text", "customer=smell", "customer=audio,text", "=audio"],
)
def test_anything_else_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(BadFragmentError, match=r"customer=audio\+video\+text") as refused:
        parse_consent(text)
    assert refused.value.reason == "bad_header"


def test_a_call_gets_what_it_asks_for_and_no_more_than_its_tenant_allows() -> None:
    policy = parse_consent("customer=audio+text;agent=text")
    assert granted(None, policy) == policy
    assert granted({}, policy) == {}
    assert granted(parse_consent("customer=text"), policy) == parse_consent("customer=text")
    everything = parse_consent("customer=audio+video+text;agent=audio+video+text;mixed=audio+text")
    assert granted(everything, policy) == policy
