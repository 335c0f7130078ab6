"""How a dead letter is written down and read: a record that cannot be analysed, with key, value, headers and reason.

It is sent by `ingest/quarantine.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipelines.customer import REFERENCE_HEADER
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.types import Coordinates, Headers, Record

PREFIX = "dlq-"
_HEADERS_MAX_BYTES = 32 << 10
_HEADERS_KEPT_MAX = 32
_NAME_KEPT_MAX = 100
_VALUE_KEPT_MAX_BYTES = 1_000
_DETAIL_MAX = 1_000
_KEY_MAX_BYTES = 512


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the record as it stood in the log at `record.at`, and why it was refused after how many attempts.

    `at` is where the letter stands in the dead-letter topic. `whole` says that nothing of the record is left out: what
    is longer than that topic takes is cut, and cannot be redriven.
    """

    at: Coordinates
    record: Record
    reason: str
    detail: str
    attempts: int
    whole: bool


def letter_headers(record: Record, reason: str, detail: str, attempts: int) -> Headers:
    """The headers of the letter that carries `record`: its own, and what is known of it under `dlq-…`.

    A customer's reference is left empty, which is refused when the letter is redriven: what a worker could hash is hashed before.
    """
    own = [
        (name, b"" if name == REFERENCE_HEADER else value)
        for name, value in record.headers
        if not name.startswith(PREFIX)
    ]
    kept, whole = own, len(record.value) <= RECORD_MAX_BYTES
    if sum(len(name) * 4 + len(value) for name, value in own) > _HEADERS_MAX_BYTES:
        # A dead letter that is too large for its topic would be tried again for ever, and hold its partition up.
        first = sorted(own, key=lambda header: header[0] != "tenant")  # so that the letter still says whose it is
        kept = [(name[:_NAME_KEPT_MAX], value[:_VALUE_KEPT_MAX_BYTES]) for name, value in first[:_HEADERS_KEPT_MAX]]
        whole = False
    key = record.key or b""
    notes = {
        "reason": reason.encode(),
        "detail": detail[:_DETAIL_MAX].encode(errors="replace"),
        "partition": str(record.at.partition).encode(),
        "offset": str(record.at.offset).encode(),
        "appended-ms": str(record.appended_ms).encode(),
        "attempts": str(attempts).encode(),
        "bytes": str(len(record.value)).encode(),
        "key": b"" if record.key is None else key[:_KEY_MAX_BYTES].hex().encode(),
        "whole": b"1" if whole and len(key) <= _KEY_MAX_BYTES and record.key is not None else b"0",
    }
    return (*kept, *((f"{PREFIX}{name}", value) for name, value in notes.items()))


def letter_key(record: Record) -> str:
    """The key under which the letter is sent: the call's, as far as it can be read."""
    return (record.key or b"")[:_KEY_MAX_BYTES].decode(errors="replace")


def read_letter(letter: Record) -> Letter | None:
    """The letter that a record of the dead-letter topic is; None when it is none of ours."""
    notes = {name.removeprefix(PREFIX): value for name, value in letter.headers if name.startswith(PREFIX)}
    try:
        numbers = {name: int(notes[name]) for name in ("partition", "offset", "appended-ms", "attempts")}
        record = Record(
            at=Coordinates(numbers["partition"], numbers["offset"]),
            key=bytes.fromhex(notes["key"].decode()) or None,
            value=letter.value,
            headers=tuple((name, value) for name, value in letter.headers if not name.startswith(PREFIX)),
            appended_ms=numbers["appended-ms"],
        )
        return Letter(
            at=letter.at,
            record=record,
            reason=notes["reason"].decode(),
            detail=notes["detail"].decode(errors="replace"),
            attempts=numbers["attempts"],
            whole=notes["whole"] == b"1",
        )
    except (KeyError, ValueError):
        return None


def read_letters(records: Iterable[Record]) -> Iterator[Letter]:
    """The letters among records of the dead-letter topic, each once: a worker that died in between may have sent it twice."""
    seen: set[Coordinates] = set()
    for record in records:
        letter = read_letter(record)
        if letter is not None and letter.record.at not in seen:
            seen.add(letter.record.at)
            yield letter
