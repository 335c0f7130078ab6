import pytest

from pipelines.log.dead_letter import letter_headers, letter_key, read_letter
from pipelines.types import Coordinates, Record

AT = Coordinates(3, 1207)


def record(key: bytes | None = b"call-1", value: bytes = b"media", *headers: tuple[str, bytes]) -> Record:
    return Record(AT, key, value, headers, 1_763_700_000_000)


def as_letter(refused: Record, reason: str = "undecodable", detail: str = "why", attempts: int = 2) -> Record:
    headers = letter_headers(refused, reason, detail, attempts)
    return Record(Coordinates(0, 5), letter_key(refused).encode(), refused.value, headers, 0)


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
def test_what_is_too_long_for_the_topic_is_cut_and_says_so(refused: Record) -> None:
    headers = letter_headers(refused, "bad_header", "d" * 10_000, 1)
    assert sum(len(name.encode()) + len(value) for name, value in headers) < 64 << 10
    letter = read_letter(as_letter(refused, "bad_header", "d" * 10_000))
    assert letter is not None
    assert not letter.whole
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
