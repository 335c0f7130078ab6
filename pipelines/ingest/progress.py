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
    """The offset below which every record was taken up."""
    _taken_to: int = 0
    """The offset after the highest record taken up."""
    _kept: deque[tuple[float, int]] = field(default_factory=deque)

    def note_read(self, offset: int, waiting_from: int | None = None) -> None:
        """Note that the record at `offset` is being processed; those from `waiting_from` on that were read are not yet."""
        lowest = offset if waiting_from is None else min(offset, waiting_from)
        self.first = lowest if self.first is None else self.first
        self._taken_to = max(self._taken_to, offset + 1)
        self.read_to = self._taken_to if waiting_from is None else min(self._taken_to, waiting_from)

    def rewind(self, offset: int) -> None:
        """Everything from `offset` on will be read again."""
        if self.read_to is not None:
            self.read_to = self._taken_to = min(self.read_to, offset)
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
