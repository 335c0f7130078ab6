from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.types import Modality
from pipelines.consent import parse_consent
from pipelines.errors import DEAD_LETTER_REASONS, BadFragmentError, SealError
from pipelines.log.records import (
    call_of,
    concerns,
    fragment_headers,
    open_fragment,
    parse_participants,
    parse_record,
    seal_fragment,
)
from pipelines.seal import Seal
from pipelines.settings import MediaLimits
from pipelines.types import (
    DEFAULT_CONSENT,
    TOPIC_MEDIA,
    CallRef,
    Coordinates,
    MediaFragment,
    Participant,
    Record,
    format_participants,
)

LIMITS = MediaLimits()
GOOD = {
    "v": b"1",
    "tenant": b"acme",
    "stream": b"phone",
    "seq": b"7",
    "start-ms": b"7000",
    "content-type": b"audio/L16;rate=8000;channels=2",
    "participants": b"agent,customer",
    "consent": b"customer=audio+text;agent=text",
}


def record(key: bytes | None = b"call-1", value: bytes = b"sound", **changes: bytes | None) -> Record:
    headers = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    return Record(
        Coordinates(3, 11), key, value, tuple((name, text) for name, text in headers.items() if text is not None), 0
    )


def test_a_record_becomes_the_fragment_it_describes() -> None:
    assert parse_record(record(), LIMITS) == MediaFragment(
        call_id="call-1",
        tenant="acme",
        stream="phone",
        seq=7,
        start_ms=7000,
        content_type="audio/L16;rate=8000;channels=2",
        participants=(Participant.AGENT, Participant.CUSTOMER),
        consent={
            Participant.CUSTOMER: frozenset({Modality.AUDIO, Modality.TEXT}),
            Participant.AGENT: frozenset({Modality.TEXT}),
        },
        final=False,
        media=b"sound",
        at=Coordinates(3, 11),
    )


def test_what_is_optional_has_its_default() -> None:
    fragment = parse_record(record(tenant=None, stream=None, consent=None), LIMITS)
    assert (fragment.tenant, fragment.stream, fragment.final) == ("default", "main", False)
    assert fragment.consent is None
    assert not fragment.recorded  # somebody waits for what says nothing: a foreign producer's call goes on


@pytest.mark.parametrize(("said", "recorded"), [(b"1", True), (b"0", False)])
def test_a_fragment_says_that_nobody_waits_for_it(said: bytes, recorded: bool) -> None:  # noqa: FBT001  # a parameter
    fragment = parse_record(record(recorded=said), LIMITS)
    assert fragment.recorded is recorded
    assert dict(fragment_headers(fragment)).get("recorded") == (b"1" if recorded else None)


def test_an_agents_voice_is_analysed_only_where_the_header_names_it() -> None:
    assert Modality.AUDIO not in DEFAULT_CONSENT[Participant.AGENT]
    assert parse_consent("agent=audio+text")[Participant.AGENT] == {Modality.AUDIO, Modality.TEXT}
    assert Participant.AGENT not in parse_consent("customer=video")


def test_an_empty_value_is_allowed_only_to_end_a_stream() -> None:
    assert parse_record(record(value=b"", final=b"1"), LIMITS).final


def test_an_unknown_header_is_left_alone() -> None:
    assert parse_record(record(traceparent=b"00-abc"), LIMITS).seq == 7


def test_a_reference_itself_is_no_part_of_a_fragment() -> None:
    fragment = parse_record(record(customer=b"4711"), LIMITS)
    assert fragment == parse_record(record(), LIMITS)
    assert "customer" not in dict(fragment_headers(fragment))


@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        ("unknown_version", record(v=b"2")),
        ("missing_header", record(v=None)),
        ("missing_header", record(seq=None)),
        ("missing_header", record(start_ms=None)),
        ("missing_header", record(content_type=None)),
        ("missing_header", record(participants=None)),
        ("bad_call_id", record(key=None)),
        ("bad_call_id", record(key=b"")),
        ("bad_call_id", record(key=b"call 1")),
        ("bad_call_id", record(key=b"call-1\n")),
        ("bad_call_id", record(key=b"call/{1}")),
        ("bad_call_id", record(key="жалоба".encode())),
        ("bad_call_id", record(key=b"c" * 129)),
        ("bad_call_id", record(key=b".")),
        ("bad_call_id", record(key=b"..")),
        ("bad_header", record(tenant=b".")),
        ("bad_header", record(stream=b"..")),
        ("oversize", record(value=bytes(LIMITS.fragment_max_bytes + 1))),
        ("undecodable", record(value=b"")),
        ("bad_header", record(seq=b"-1")),
        ("bad_header", record(seq=b"2147483648")),
        ("bad_header", record(seq="٣".encode())),
        ("bad_header", record(seq=b"1e3")),
        ("bad_header", record(seq=b"9" * 4000)),
        ("bad_header", record(start_ms=b"-5")),
        ("bad_header", record(start_ms=b"604800001")),
        ("bad_header", record(tenant=b"a/b")),
        ("bad_header", record(stream=b"")),
        ("bad_header", record(stream=b"main\n")),
        ("bad_header", record(content_type=b"audio")),
        ("bad_header", record(content_type=b"audio/L16;rate=0")),
        ("bad_header", record(content_type=b"audio/L16;rate=99999999")),
        ("bad_header", record(content_type=b"audio/L16;rate=8000;channels=9")),
        ("bad_header", record(content_type=b"audio/L16;" + b"a" * 5000)),
        ("bad_header", record(participants=b"")),
        ("bad_header", record(participants=b"customer,robot")),
        ("bad_header", record(participants=b"agent,agent")),
        ("bad_header", record(consent=b"customer")),
        ("bad_header", record(consent=b"customer=smell")),
        ("bad_header", record(consent=b"customer=text;customer=audio")),
        ("bad_header", record(final=b"yes")),
        ("bad_header", record(recorded=b"yes")),
        ("bad_header", record(customer=b"")),
        ("bad_header", record(customer=b"secret\n1")),
        ("bad_header", record(customer=b"secret" * 50)),
        ("bad_header", record(customer=b"4711", customer_hash=b"0" * 64)),
        ("bad_header", record(customer_hash=b"4711")),
        ("bad_header", record(customer_hash=b"0" * 63 + b"G")),
        ("bad_header", record(tenant=b"\xff\xfe")),
        ("bad_header", Record(Coordinates(0, 0), b"c", b"x", (("v", b"1"), ("v", b"1")), 0)),
        ("bad_header", Record(Coordinates(0, 0), b"c", b"x", tuple((f"h{n}", b"") for n in range(10_000)), 0)),
    ],
)
def test_what_breaks_the_contract_is_refused_by_name(reason: str, bad: Record) -> None:
    with pytest.raises(BadFragmentError) as refused:
        parse_record(bad, LIMITS)
    assert refused.value.reason == reason
    assert reason in DEAD_LETTER_REASONS
    assert len(str(refused.value)) < 400
    assert "secret" not in str(refused.value)


def is_no_dots(name: str) -> bool:
    return name not in {".", ".."}


@given(
    st.builds(
        MediaFragment,
        call_id=st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True).filter(is_no_dots),
        tenant=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(is_no_dots),
        stream=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(is_no_dots),
        seq=st.integers(0, 2**31 - 1),
        start_ms=st.integers(0, 7 * 86_400_000),
        content_type=st.sampled_from(["audio/L16;rate=8000;channels=2", "video/x-matroska", "audio/PCMU;rate=8000"]),
        participants=st.permutations(list(Participant)).map(tuple),
        consent=st.none() | st.dictionaries(st.sampled_from(Participant), st.frozensets(st.sampled_from(Modality))),
        final=st.booleans(),
        media=st.binary(min_size=1, max_size=20),
        at=st.just(Coordinates(0, 5)),
        customer=st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    )
)
def test_a_fragments_headers_give_the_same_fragment_again(fragment: MediaFragment) -> None:
    assert fragment.at is not None
    record = Record(fragment.at, fragment.call_id.encode(), fragment.media, fragment_headers(fragment), 0)
    assert parse_record(record, LIMITS) == fragment


@given(
    st.none() | st.binary(max_size=200),
    st.binary(max_size=50),
    st.lists(st.tuples(st.sampled_from([*GOOD, "final", "x"]), st.binary(max_size=30)), max_size=12),
)
def test_anything_else_is_a_fragment_or_a_named_refusal(
    key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]
) -> None:
    try:
        parse_record(Record(Coordinates(0, 0), key, value, tuple(headers), 0), LIMITS)
    except BadFragmentError as refused:
        assert refused.reason in DEAD_LETTER_REASONS  # noqa: PT017 # either outcome is right


@pytest.mark.parametrize(
    ("key", "headers", "whose"),
    [
        (b"c", (), CallRef("default", "c")),
        (b"c", (("tenant", b"acme"), ("v", b"9")), CallRef("acme", "c")),
        (b"c", (("tenant", b"acme"), ("tenant", b"rival")), None),
        (b"c", (("tenant", b"a/b"),), None),
        (b"c", (("tenant", b"\xff"),), None),
        (b"a b", (), None),
        (None, (), None),
    ],
)
def test_a_record_says_whose_it_is_however_else_it_breaks_the_contract(
    key: bytes | None, headers: tuple[tuple[str, bytes], ...], whose: CallRef | None
) -> None:
    record = Record(Coordinates(0, 0), key, b"", headers, 0)
    assert call_of(record) == whose
    assert concerns(record, None, None)
    assert concerns(record, "acme", "c") == (whose == CallRef("acme", "c"))
    assert concerns(record, "acme", None) == (whose is not None and whose.tenant == "acme")


SEAL = Seal.new(CallRef("acme", "call-1"), TOPIC_MEDIA)


def as_record(fragment: MediaFragment) -> Record:
    assert fragment.at is not None
    return Record(fragment.at, fragment.call_id.encode(), fragment.media, fragment_headers(fragment), 0)


def test_a_fragment_goes_into_the_log_sealed_and_says_by_what() -> None:
    plain = parse_record(record(), LIMITS)
    sealed = parse_record(as_record(seal_fragment(plain, SEAL, DEFAULT_CONSENT)), LIMITS)
    assert (sealed.seal, b"sound" in sealed.media) == (SEAL.id, False)
    assert open_fragment(sealed, SEAL) == plain
    assert seal_fragment(sealed, SEAL, DEFAULT_CONSENT) == sealed  # once


@pytest.mark.parametrize(
    ("policy", "consent"),
    [("", b"customer=audio"), ("agent=;customer=", b"customer=audio"), ("customer=text", b"customer=audio")],
)
def test_media_of_which_nothing_may_be_analysed_does_not_go_into_the_log(policy: str, consent: bytes) -> None:
    plain = parse_record(record(consent=consent), LIMITS)
    left_out = as_record(seal_fragment(plain, SEAL, parse_consent(policy)))
    assert left_out.value == b""
    parsed = parse_record(left_out, LIMITS)
    assert (parsed.withheld, parsed.seal, parsed.media) == (True, None, b"")


@pytest.mark.parametrize(
    "changed",
    [
        {"participants": (Participant.CUSTOMER,)},
        {"consent": None},
        {"consent": {Participant.AGENT: frozenset(Modality)}},
        {"start_ms": 0},
        {"content_type": "audio/L16;rate=16000;channels=2"},
    ],
)
def test_sealed_media_cannot_be_passed_off_as_somebody_elses_or_as_allowed(changed: dict[str, Any]) -> None:
    sealed = seal_fragment(parse_record(record(), LIMITS), SEAL, DEFAULT_CONSENT)
    assert (
        open_fragment(replace(sealed, stream="phone.r7", seq=0, final=True), SEAL).media == b"sound"
    )  # as it is redriven
    with pytest.raises(SealError):
        open_fragment(replace(sealed, **changed), SEAL)


def test_a_sealed_fragment_may_be_as_long_as_another() -> None:
    longest = parse_record(record(value=bytes(LIMITS.fragment_max_bytes)), LIMITS)
    sealed = as_record(seal_fragment(longest, SEAL, DEFAULT_CONSENT))
    assert len(sealed.value) > LIMITS.fragment_max_bytes
    assert parse_record(sealed, LIMITS).seal == SEAL.id
    with pytest.raises(BadFragmentError, match="allowed are"):
        parse_record(replace(sealed, value=sealed.value + b"x"), LIMITS)


def test_media_beside_the_word_that_it_was_left_out_is_not_looked_at() -> None:
    assert parse_record(record(withheld=b"1"), LIMITS).media == b""


@pytest.mark.parametrize("text", ["agent,customer", "-,customer", "agent,-,-,customer", "mixed"])
def test_participants_are_written_as_they_are_read(text: str) -> None:
    assert format_participants(parse_participants(text)) == text


@pytest.mark.parametrize(
    "text", ["", "-", "-,-", "agent,agent", "boss", "agent,,customer", ",".join("-" * 64) + ",agent"]
)
def test_participants_that_name_nobody_or_somebody_twice_are_refused(text: str) -> None:
    with pytest.raises(BadFragmentError, match="- leaves a channel out"):
        parse_participants(text)
