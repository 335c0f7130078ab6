"""Which offset of each partition may be committed (docs/architecture.md#nothing-lost-nothing-twice)."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Offsets:
    """How far the partitions of one worker are read, and what of it may be committed: the lowest that is still needed.

    What is committed is what was needed `delay_s` ago. A store that loses its last moments (a replica takes over that
    had not heard of them, a disk that was not written to) then finds their fragments again.
    """

    delay_s: float
    read_to: dict[int, int] = field(default_factory=dict)
    """The offset after the last record handled, by partition; -1 before the first."""
    first: dict[int, int] = field(default_factory=dict)
    """The offset of the first record handled, by partition."""
    _kept: deque[tuple[float, dict[int, int]]] = field(default_factory=deque)

    def assign(self, partition: int) -> None:
        """Begin a partition anew."""
        self.revoke(partition)
        self.read_to[partition] = -1

    def revoke(self, partition: int) -> None:
        """Forget a partition."""
        self.read_to.pop(partition, None)
        self.first.pop(partition, None)
        for _, offsets in self._kept:
            offsets.pop(partition, None)

    def read(self, partition: int, offset: int) -> None:
        """A record is being handled."""
        self.first.setdefault(partition, offset)
        self.read_to[partition] = offset + 1

    def rewind(self, partition: int, offset: int) -> None:
        """Everything from `offset` on will be read again."""
        for offsets in (self.read_to, *(kept for _, kept in self._kept)):
            if partition in offsets:
                offsets[partition] = min(offsets[partition], offset)

    def committable(self, now_s: float, needed: Iterable[tuple[int, int]]) -> Mapping[int, int]:
        """What may be committed at `now_s` by the monotonic clock; open streams need the `(partition, offset)` given."""
        lowest = {partition: offset for partition, offset in self.read_to.items() if offset >= 0}
        for partition, offset in needed:
            if partition in lowest:
                lowest[partition] = min(lowest[partition], offset)
        self._kept.append((now_s, lowest))
        due: dict[int, int] = {}
        while self._kept and self._kept[0][0] <= now_s - self.delay_s:
            due |= self._kept.popleft()[1]
        return due
