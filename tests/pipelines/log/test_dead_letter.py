from dataclasses import replace

import pytest

from pipelines.errors import SealError
from pipelines.log.dead_letter import letter_key, letter_of, open_letter, read_letter
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.log.records import call_of
from pipelines.seal import Seal
from pipelines.types import TOPIC_DEAD_LETTER, CallRef, Coordinates, Record

AT = Coordinates(3, 1207)
SEAL = Seal.new(CallRef("acme", "call-1"), TOPIC_DEAD_LETTER)


def record(key: bytes | None = b"call-1", value: bytes = b"media", *headers: tuple[str, bytes]) -> Record:
    return Record(AT, key, value, headers, 1_763_700_000_000)


def as_letter(
    refused: Record, reason: str = "undecodable", detail: str = "why", attempts: int = 2, seal: Seal | None = None
) -> Record:
    return Record(
        Coordinates(0, 5), letter_key(refused).encode(), *letter_of(refused, reason, detail, attempts, seal), 0
    )


@pytest.mark.parametrize(
    "refused",
    [
        record(b"call-1", bytes(range(256)), ("v", b"1"), ("odd", bytes(range(256))), ("odd", b"twice")),
        record(b"\xff no id \x00", b""),
        record(b"x" * 512, b"media"),
    ],
)
def test_a_letter_gives_back_the_record_it_was_made_of(refused: Record) -> None:
    letter = read_letter(as_letter(refused))
    assert letter is not None
    assert letter.record == refused
    assert (letter.reason, letter.detail, letter.attempts, letter.whole) == ("undecodable", "why", 2, True)


def test_of_a_call_only_whose_it_is_where_it_stood_and_the_reason_can_be_read_without_its_seal() -> None:
    refused = record(
        b"call-1", b"the sound", ("tenant", b"acme"), ("x-name", b"Ada Lovelace"), ("odd", bytes(range(256)))
    )
    sealed = as_letter(refused, detail="is 'Ada Lovelace'", seal=SEAL)
    assert not [
        part for part in (sealed.value, *(value for _, value in sealed.headers)) if b"Ada" in part or b"sound" in part
    ]
    letter = read_letter(sealed)
    assert letter is not None
    assert (letter.record.at, letter.record.key, letter.reason, letter.seal) == (AT, b"call-1", "undecodable", SEAL.id)
    assert (call_of(letter.record), letter.detail) == (CallRef("acme", "call-1"), "")
    opened = open_letter(letter, SEAL)
    assert (opened.record, opened.detail, opened.seal) == (refused, "is 'Ada Lovelace'", None)
    with pytest.raises(SealError, match="call call-1 of tenant acme"):
        open_letter(letter, Seal.new(SEAL.call, SEAL.topic))


@pytest.mark.parametrize("inside", [b"", b"{}", b"[]\n", b'{"headers": [["a"]], "detail": ""}\n', b"\xff\n"])
def test_what_is_sealed_and_no_letter_is_refused(inside: bytes) -> None:
    letter = read_letter(as_letter(record(), seal=SEAL))
    assert letter is not None
    with pytest.raises(SealError, match="no dead letter of ours"):
        open_letter(replace(letter, record=replace(letter.record, value=SEAL.close(inside))), SEAL)


def test_a_record_of_no_call_can_be_shown_and_not_sent_again() -> None:
    letter = read_letter(as_letter(record(None)))
    assert letter is not None
    assert (letter.record.key, letter.whole) == (None, False)


@pytest.mark.parametrize(
    "refused",
    [
        record(b"k", b"m", *((f"h{number}", b"x" * 2000) for number in range(1000))),
        record(b"k", bytes(3 << 20)),
        record(b"k" * 5000, b"m"),
    ],
)
@pytest.mark.parametrize("seal", [None, SEAL])
def test_what_is_too_long_for_the_topic_is_cut_and_says_so(refused: Record, seal: Seal | None) -> None:
    value, headers = letter_of(refused, "bad_header", "d" * 10_000, 1, seal)
    assert len(value) <= RECORD_MAX_BYTES
    assert sum(len(name.encode()) + len(value) for name, value in headers) < 64 << 10
    letter = read_letter(as_letter(refused, "bad_header", "d" * 10_000, seal=seal))
    assert letter is not None
    assert not letter.whole
    letter = letter if seal is None else open_letter(letter, seal)
    assert len(letter.detail) == 1000


def test_notes_that_came_with_the_record_do_not_pass_for_ours() -> None:
    letter = read_letter(as_letter(record(b"k", b"m", ("dlq-reason", b"forged"), ("dlq-offset", b"1"))))
    assert letter is not None
    assert (letter.reason, letter.record.at, letter.record.headers) == ("undecodable", AT, ())


def test_a_reference_of_a_customer_stands_in_no_letter() -> None:
    letter = read_letter(as_letter(record(b"k", b"m", ("customer", b"4711"), ("customer", b"4712"), ("v", b"1"))))
    assert letter is not None
    assert letter.record.headers == (("customer", b""), ("customer", b""), ("v", b"1"))


@pytest.mark.parametrize("headers", [(), (("dlq-partition", b"x"),), (("dlq-reason", b"r"), ("dlq-offset", b"1"))])
def test_what_is_no_letter_is_none(headers: tuple[tuple[str, bytes], ...]) -> None:
    assert read_letter(Record(AT, b"k", b"", headers, 0)) is None
