"""The trail of accesses as values: how an entry is written and chained to the one before it, and whether a chain is whole.

An entry is one line of JSON that holds the SHA-256 of the line before. Whoever alters or removes one breaks the chain at the
next; the hash of the last stands in the trail's head. `accesses.py` keeps both in the store.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
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
FINDINGS_MAX = 100

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


@dataclass(frozen=True, slots=True)
class Head:
    """Where a trail ends: its last entry, how long entries are kept, how many have gone for that, and what time it is."""

    mark: Mark
    at_ms: int
    kept_s: int
    trimmed: int
    now_ms: int

    @classmethod
    def of(cls, fields: Mapping[str, str], now_ms: int) -> "Head":
        """What the head's hash holds; number 0 where there is none."""
        number, at_ms, kept_s, trimmed = (int(fields.get(name, 0)) for name in ("number", "at_ms", "kept_s", "trimmed"))
        return cls(Mark(number, fields.get("hash", START)), at_ms, kept_s, trimmed, now_ms)

    @property
    def over(self) -> bool:
        """Whether the time of its last entry is over, so that none is left."""
        return self.at_ms + self.kept_s * 1000 <= self.now_ms


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


class Finding(BaseModel):
    """Something that is wrong with a trail, at the entry `number`."""

    kind: Literal["altered", "removed", "added", "no_head"]
    number: int
    detail: str


class TrailReport(BaseModel):
    """Whether a tenant's trail is whole.

    Attributes:
        tenant: Whose.
        entries: How many it holds.
        first_number: The number of the first; entries before it were past their retention, unless a finding says otherwise.
        head: `NUMBER:HASH` of the last, to be noted elsewhere; None of a trail that never began.
        expected: Whether the head that was noted earlier is part of it; None where none was named.
        findings: The first hundred things that are wrong.
        findings_in_all: How many there are.
    """

    tenant: str
    entries: int
    first_number: int | None
    head: str | None
    expected: Literal["contained", "not_contained", "past_retention"] | None
    findings: tuple[Finding, ...]
    findings_in_all: int

    @property
    def whole(self) -> bool:
        """Nothing is wrong, and the head that was expected is there."""
        return not self.findings_in_all and self.expected in (None, "contained")


class ChainCheck:
    """Takes the entries of a trail in order, and says at the end whether it is whole; it holds no entry but the last hash."""

    def __init__(self, tenant: str, head: Head, expected: Mark | None = None) -> None:
        """`head` as it stood before the first entry was read; later entries may have come since."""
        self._tenant, self._head, self._expected = tenant, head, expected
        self._last = Mark(0, START)
        self._entries, self._first_number = 0, 0
        self._findings: list[Finding] = []
        self._found = 0
        self._seen: str | None = None
        """The hash at the place of the expected mark."""

    @property
    def complete(self) -> bool:
        """Whether the head has been passed: what follows came later."""
        return self._entries > 0 and self._last.number > self._head.mark.number

    def add(self, entry_id: str, line: str) -> None:
        """The next entry, under its id in the store."""
        expected_number, self._entries = self._last.number + 1, self._entries + 1
        try:
            entry = Entry.read(line)
        except CorruptResultError:
            self._find("altered", expected_number, f"what stands at {entry_id} is no entry")
            self._go_to(Mark(expected_number, hash_of(line)))
            return
        if self._entries == 1:
            self._first_number = entry.number
            self._last = Mark(entry.number - 1, entry.previous if entry.number > 1 else START)
            self._compare(self._last)
            expected_number = entry.number
        if entry.number > expected_number:
            self._find(
                "removed", expected_number, f"{entry.number - expected_number} entries before {entry.number} are gone"
            )
        elif entry.number < expected_number:
            self._find("added", entry.number, f"it stands behind entry {expected_number - 1}")
            return
        if expected_number == entry.number and entry.previous != self._last.hash:
            self._find("altered", max(1, entry.number - 1), f"entry {entry.number} follows another one")
        if entry.tenant != self._tenant or entry_id.partition("-")[0] != str(entry.at_ms):
            self._find("altered", entry.number, "it was written for another tenant or another time")
        self._go_to(Mark(entry.number, hash_of(line)))

    def report(self, after: Head) -> TrailReport:
        """What was found; `after` is the head as it stood after the last entry was read."""
        head, last = self._head.mark, self._last.number
        # What went for its age while this was read is missing in its middle.
        standing = [one for one in self._findings if one.kind != "removed" or one.number > after.trimmed]
        self._found -= len(self._findings) - len(standing)
        self._findings = standing
        if self._entries and not head.number:
            self._find("no_head", last, "the trail has entries and no head")
        elif last < head.number and not (self._head.over and not self._entries):
            self._find(
                "removed", max(1, last + 1), f"the trail ends with entry {last}, its head is entry {head.number}"
            )
        elif last > after.mark.number:
            self._find("added", last, f"the trail's head is entry {after.mark.number}")
        if self._entries and self._first_number - 1 > after.trimmed:
            gone = self._first_number - 1 - after.trimmed
            self._find(
                "removed", after.trimmed + 1, f"{gone} entries before {self._first_number} did not go for their age"
            )
        return TrailReport(
            tenant=self._tenant,
            entries=self._entries,
            first_number=self._first_number or None,
            head=str(head) if head.number else None,
            expected=self._verdict(after),
            findings=tuple(self._findings),
            findings_in_all=self._found,
        )

    def _go_to(self, mark: Mark) -> None:
        if mark.number == self._head.mark.number and mark.hash != self._head.mark.hash:
            self._find("altered", mark.number, "it is not the one that the head names")
        self._last = mark
        self._compare(mark)

    def _compare(self, mark: Mark) -> None:
        if self._expected is not None and mark.number == self._expected.number:
            self._seen = mark.hash

    def _verdict(self, after: Head) -> Literal["contained", "not_contained", "past_retention"] | None:
        if self._expected is None:
            return None
        if self._seen is None:
            all_gone = self._head.mark.number > 0 and not self._entries and self._head.over
            gone = all_gone or self._expected.number <= after.trimmed
            return "past_retention" if gone else "not_contained"
        return "contained" if self._seen == self._expected.hash else "not_contained"

    def _find(self, kind: Literal["altered", "removed", "added", "no_head"], number: int, detail: str) -> None:
        self._found += 1
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(kind=kind, number=number, detail=detail))
