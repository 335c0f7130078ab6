"""How a dead letter is written down and read: a record that cannot be analysed, with key, value, headers and reason.

It is sent by `ingest/quarantine.py`. What is known to be a call's is sealed (`pipelines/seal.py`): its media, its own headers and
what is wrong with them; only whose it is, where it stood and the reason can be read without.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipelines.customer import REFERENCE_HEADER
from pipelines.errors import SealError
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.seal import Seal
from pipelines.types import Coordinates, Headers, Record

PREFIX = "dlq-"
_HEADERS_MAX_BYTES = 32 << 10
_HEADERS_KEPT_MAX = 32
_NAME_KEPT_MAX = 100
_VALUE_KEPT_MAX_BYTES = 1_000
_DETAIL_MAX = 1_000
_KEY_MAX_BYTES = 512
_VALUE_MAX_BYTES = RECORD_MAX_BYTES - (128 << 10)
"""So that the value, its headers and the detail fit the topic when they are sealed together."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the record as it stood in the log at `record.at`, and why it was refused after how many attempts.

    `at` is where the letter stands in the dead-letter topic. `whole` says that nothing of the record is left out: what
    is longer than that topic takes is cut, and cannot be redriven.

    `seal` is the id of the seal that opens it, None once it is open (`open_letter`); before, `detail` is empty, and `record` has
    the tenant's header alone, and sealed bytes.
    """

    at: Coordinates
    record: Record
    reason: str
    detail: str
    attempts: int
    whole: bool
    seal: str | None = None


def letter_of(record: Record, reason: str, detail: str, attempts: int, seal: Seal | None) -> tuple[bytes, Headers]:
    """The value and the headers of the letter that carries `record`: what is known of it stands under `dlq-…`.

    `seal` is the call's for the dead-letter topic; None for a record that does not say whose it is. A customer's reference is left
    empty, which is refused when the letter is redriven: what a worker could hash is hashed before.
    """
    own = [
        (name, b"" if name == REFERENCE_HEADER else value)
        for name, value in record.headers
        if not name.startswith(PREFIX)
    ]
    kept, whole = own, len(record.value) <= _VALUE_MAX_BYTES
    if sum(len(name) * 4 + len(value) for name, value in own) > _HEADERS_MAX_BYTES:
        # A dead letter that is too large for its topic would be tried again for ever, and hold its partition up.
        first = sorted(own, key=lambda header: header[0] != "tenant")  # so that the letter still says whose it is
        kept = [(name[:_NAME_KEPT_MAX], value[:_VALUE_KEPT_MAX_BYTES]) for name, value in first[:_HEADERS_KEPT_MAX]]
        whole = False
    key = record.key or b""
    notes = {
        "reason": reason.encode(),
        "partition": str(record.at.partition).encode(),
        "offset": str(record.at.offset).encode(),
        "appended-ms": str(record.appended_ms).encode(),
        "attempts": str(attempts).encode(),
        "bytes": str(len(record.value)).encode(),
        "key": b"" if record.key is None else key[:_KEY_MAX_BYTES].hex().encode(),
        "whole": b"1" if whole and len(key) <= _KEY_MAX_BYTES and record.key is not None else b"0",
    }
    detail, value = detail[:_DETAIL_MAX], record.value[:_VALUE_MAX_BYTES]
    if seal is None:
        notes["detail"] = detail.encode(errors="replace")
    else:
        inside = {"headers": [[name, b64encode(value).decode()] for name, value in kept], "detail": detail}
        value = seal.close(json.dumps(inside, ensure_ascii=False).encode(errors="replace") + b"\n" + value)
        kept = [header for header in kept if header[0] == "tenant"]
        notes["seal"] = seal.id.encode()
    return value, (*kept, *((f"{PREFIX}{name}", value) for name, value in notes.items()))


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
            detail=notes.get("detail", b"").decode(errors="replace"),
            attempts=numbers["attempts"],
            whole=notes["whole"] == b"1",
            seal=notes["seal"].decode() if "seal" in notes else None,
        )
    except (KeyError, ValueError):
        return None


def open_letter(letter: Letter, seal: Seal) -> Letter:
    """The letter with all of its record.

    Raises:
        SealError: it was not sealed by `seal`.
    """
    head, _, value = seal.open(letter.record.value).partition(b"\n")
    try:
        inside = json.loads(head)
        headers = tuple((str(name), b64decode(value)) for name, value in inside["headers"])
        detail = str(inside["detail"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SealError(f"what the dead-letter topic holds of {seal.call} is no dead letter of ours") from None
    return replace(letter, record=replace(letter.record, value=value, headers=headers), detail=detail, seal=None)


def read_letters(records: Iterable[Record]) -> Iterator[Letter]:
    """The letters among records of the dead-letter topic, each once under one seal: a worker that died in between may have sent it twice."""
    seen: set[tuple[Coordinates, str | None]] = set()
    for record in records:
        letter = read_letter(record)
        if letter is not None and (letter.record.at, letter.seal) not in seen:
            seen.add((letter.record.at, letter.seal))
            yield letter
