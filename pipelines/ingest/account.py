"""What became of a stream's fragments, and the one rule that tells those that were never sent from those that the log lost."""

from collections import Counter, deque
from collections.abc import Mapping

from pipelines.checkpoints import Account, Counted


class Outcomes:
    """The outcomes of a stream's fragments that the store has not counted yet.

    Fragments left out before the one at hand are `lost` where the log dropped records in between, `missing` where it
    did not: `lost_before` is the offset at which the log goes on after its last gap, 0 where it has none.
    """

    def __init__(self, account: Account) -> None:
        self._noted_to = account.counted_to
        self._first_at = account.first_at
        self._noted: deque[tuple[int, Mapping[str, int], int]] = deque()

    def note(
        self, offset: int, outcome: str | None, left_out: int = 0, lost_before: int = 0, heard_to_ms: int = 0
    ) -> bool:
        """The fragment at `offset` ended with `outcome`, and `left_out` sequence numbers before it never came.

        Its media was heard to `heard_to_ms` in the call, 0 where it was not.

        Without an `outcome` it is counted elsewhere, as dead letters are. False for one that was noted before and is
        only read again.
        """
        if offset < self._noted_to:
            return False
        name = "lost" if self._noted_to < lost_before <= offset else "missing"
        if self._first_at is None:
            self._first_at = offset
        self._noted_to = offset + 1
        if left_out:
            # They lie before it: a successor that begins with this fragment does not see that gap.
            self._noted.append((offset - 1, {name: left_out}, 0))
        self._noted.append((offset, {} if outcome is None else {outcome: 1}, heard_to_ms))
        return True

    def note_lost_end(self, lost_before: int) -> None:
        """No fragment will come any more. If the log has dropped records since the last one, the end is taken to be among them.

        Nobody can know how many they were: they count as 1.
        """
        if self._noted_to < lost_before:
            self._noted.append((lost_before - 1, {"lost": 1}, 0))
            self._noted_to = lost_before

    def take(self, below: int | None = None) -> Counted:
        """Those below an offset, or all: they are the caller's now."""
        end = self._noted_to if below is None else below
        counts: Counter[str] = Counter()
        heard_to_ms = 0
        while self._noted and self._noted[0][0] < end:
            _, outcomes, its_end_ms = self._noted.popleft()
            counts.update(outcomes)
            heard_to_ms = max(heard_to_ms, its_end_ms)
        return Counted(end, self._first_at, counts, heard_to_ms)

    def __bool__(self) -> bool:
        return bool(self._noted)
