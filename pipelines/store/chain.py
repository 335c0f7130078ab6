"""The trail of accesses as values: how an entry is written and chained to the one before it.

An entry is one line of JSON that holds the SHA-256 of the line before. Whoever alters or removes one breaks the chain at the
next; the hash of the last stands in the trail's head. `chain_check.py` says whether a chain is whole, `accesses.py` keeps it in the store.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import CorruptResultError
from pipelines.types import CallRef

Action = Literal["read", "watch", "delete", "forget", "replay", "redrive", "drop"]
ALL_CALLS = "*"
"""In the place of a call's id: what was done concerned every call of the tenant, or may have."""
START = "0" * 64
"""What the first entry of a trail is chained to."""
TEXT_MAX_CHARS = 200

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class CallAccess:
    """Who did what with which call, and from where. It holds no word of a call and no score.

    `call` has the id `ALL_CALLS` where it was no single one. `who` is a token's name or a user of the operating system, `origin`
    the client's address or `command line on HOST`, `detail` what of the call, in a few words.
    """

    action: Action
    call: CallRef
    who: str
    origin: str
    detail: str = ""


class Entry(BaseModel):
    """An access as the trail holds it.

    Attributes:
        v: The version of this form.
        number: 1, 2, 3 … within the tenant's trail.
        at_ms: When it was noted, by the store's clock, ms since 1970; never before the entry before.
        tenant: Whose trail.
        call_id: Which call; `*` for all.
        action: An `Action`, or that of a later version.
        who: See `CallAccess`.
        origin: See `CallAccess`.
        detail: See `CallAccess`.
        previous: The hash of the entry before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    number: Annotated[int, Field(ge=1)]
    at_ms: Annotated[int, Field(ge=0)]
    tenant: str
    call_id: str
    action: str
    who: str
    origin: str
    detail: str = ""
    previous: Hash

    def write(self) -> str:
        """The line: keys in order, no spaces, ASCII alone, so that the same entry has one hash."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def read(cls, line: str) -> "Entry":
        """The entry of a line.

        Raises:
            CorruptResultError: it is none.
        """
        try:
            return cls.model_validate_json(line)
        except ValidationError as error:
            raise CorruptResultError(f"no access: {error.errors(include_url=False)[:3]}") from None


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a trail that an operator has noted elsewhere, written `NUMBER:HASH`."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def read(cls, text: str) -> "Mark":
        """The mark of a text.

        Raises:
            ValueError: it is none.
        """
        number, _, digest = text.strip().partition(":")
        if not (number.isascii() and number.isdigit() and len(number) <= 15 and int(number)):
            raise ValueError(f"{text[:80]!r} is no head of a trail: write NUMBER:HASH, as --verify printed it")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError(
                f"{text[:80]!r} has no hash of 64 hexadecimal digits: write NUMBER:HASH, as --verify printed it"
            )
        return cls(int(number), digest)


def chained(accesses: Sequence[CallAccess], at_ms: int, last: Mark) -> tuple[list[str], Mark]:
    """The accesses as lines behind the entry `last`, and where the trail ends with them."""
    lines = []
    for access in accesses:
        entry = Entry(
            number=last.number + 1,
            at_ms=at_ms,
            tenant=access.call.tenant,
            call_id=access.call.call_id,
            action=access.action,
            who=_bounded(access.who),
            origin=_bounded(access.origin),
            detail=_bounded(access.detail),
            previous=last.hash,
        )
        lines.append(entry.write())
        last = Mark(entry.number, hash_of(lines[-1]))
    return lines, last


def hash_of(line: str) -> str:
    """SHA-256 of an entry's line, in hexadecimal."""
    return hashlib.sha256(line.encode()).hexdigest()


def _bounded(text: str) -> str:
    """A text as it is where it is short, else its beginning and its hash: two long ones stay different."""
    return text if len(text) <= TEXT_MAX_CHARS else f"{text[: TEXT_MAX_CHARS - 17]}#{hash_of(repr(text))[:16]}"
