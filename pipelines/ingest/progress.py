"""How far a partition is read, and which offset may be committed (docs/architecture.md#nothing-lost-nothing-twice)."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """The offsets of one partition.

    What is committed is what was needed `delay_s` ago. A store that loses its latest writes (a replica is promoted that
    did not have them, a disk was not synced) then finds their fragments again.
    """

    delay_s: float
    first: int | None = None
    """The offset of the first record taken up."""
    read_to: int | None = None
    """The offset after the last record taken up."""
    _kept: deque[tuple[float, int]] = field(default_factory=deque)

    def note_read(self, offset: int) -> None:
        """Note that the record at `offset` is being processed."""
        self.first = offset if self.first is None else self.first
        self.read_to = offset + 1

    def rewind(self, offset: int) -> None:
        """Everything from `offset` on will be read again."""
        if self.read_to is not None:
            self.read_to = min(self.read_to, offset)
        self._kept = deque((at_s, min(kept, offset)) for at_s, kept in self._kept)

    def committable(self, now_s: float, needed: int | None) -> int | None:
        """Note what is needed at `now_s` by the monotonic clock, and take what may be committed: what was needed `delay_s` ago.

        Unfinished streams need everything from `needed` on.
        """
        if self.read_to is not None:
            self._kept.append((now_s, self.read_to if needed is None else min(self.read_to, needed)))
        due = None
        while self._kept and self._kept[0][0] <= now_s - self.delay_s:
            due = self._kept.popleft()[1]
        return due
