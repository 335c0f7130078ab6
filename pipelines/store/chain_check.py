"""Whether a trail of accesses is whole: its entries and its head in, what is wrong out; no Redis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from pipelines.errors import CorruptResultError
from pipelines.store.chain import START, Entry, Mark, hash_of

FINDINGS_MAX = 100


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
