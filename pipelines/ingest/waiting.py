"""The records of one partition that were read and wait for their turn: in order within a call, and fair between calls."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.log.records import RECORDED, call_of
from pipelines.types import CallRef, Record


@dataclass(frozen=True, slots=True)
class Waiting:
    """A record that waits; `lost_before` is where the log goes on after the last gap before it, 0 without one."""

    record: Record
    call: CallRef | None
    """Whose it is; None where it does not say."""
    lost_before: int

    @property
    def recorded(self) -> bool:
        """Whether nobody waits for what comes of it."""
        return (RECORDED, b"1") in self.record.headers


HasRoom = Callable[[CallRef | None, bool], bool]
"""Whether another record of this call may be taken up now; the second argument says whether it is recorded."""


class WaitingRecords:
    """A line for each call, oldest record first. Calls take turns, and what nobody waits for comes behind all that somebody waits for."""

    def __init__(self) -> None:
        self._lines: dict[CallRef | None, deque[Waiting]] = {}
        """In the order of their turns."""
        self.held_bytes = 0

    def put(self, record: Record, lost_before: int = 0) -> None:
        """Keep a record until its turn; those of a call come in order."""
        one = Waiting(record, call_of(record), lost_before)
        self._lines.setdefault(one.call, deque()).append(one)
        self.held_bytes += _size_bytes(record)

    def next(self, has_room: HasRoom, *, recorded: bool) -> Waiting | None:
        """Whose turn it is among those that are `recorded`, or that are not; None where there is none, or no room."""
        heads = (line[0] for line in self._lines.values())
        return next((one for one in heads if one.recorded is recorded and has_room(one.call, recorded)), None)

    def take(self, one: Waiting) -> None:
        """It waits no more, and the turn of its call is over."""
        line = self._lines.pop(one.call)
        line.popleft()
        self.held_bytes -= _size_bytes(one.record)
        if line:
            self._lines[one.call] = line

    def clear(self) -> None:
        """Drop them all: they will come again."""
        self._lines.clear()
        self.held_bytes = 0

    @property
    def first(self) -> int | None:
        """The lowest offset that waits."""
        return min((line[0].record.at.offset for line in self._lines.values()), default=None)

    def holds(self, call: CallRef) -> bool:
        """Whether anything of this call waits."""
        return call in self._lines

    def __iter__(self) -> Iterator[Record]:
        return (one.record for line in self._lines.values() for one in line)

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)


def _size_bytes(record: Record) -> int:
    """What a record takes: one without media is not nothing."""
    return len(record.value) + 1024
