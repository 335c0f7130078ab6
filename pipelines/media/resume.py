"""From which fragment a new owner of a stream reads: the candidates, remembered while the stream is fed."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from pipelines.checkpoints import ResumePoint
from pipelines.types import SAMPLES_PER_MS

PRE_ROLL_MS: Final = 1000
"""A new owner reads from this long before the lowest cut, so that decoders and resamplers have converged at the cut."""
SPACING_MS: Final = 500
"""Candidates are remembered this far apart, whatever the length of fragments."""
POINTS_MAX: Final = 1 << 16
"""Nine hours of what is not stored yet; a worker stops reading long before."""
KEY_ROLL_MAX_MS: Final = 30_000
"""To keep its pictures, a new owner starts at a fragment that opens with a key frame, if one is this near."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    point: ResumePoint
    starts_at_key_frame: bool


class ResumePoints:
    """Fragments of one stream from which it can be resumed, in order; their number is bounded."""

    def __init__(self) -> None:
        self._candidates: deque[_Candidate] = deque(maxlen=POINTS_MAX)

    def __len__(self) -> int:
        return len(self._candidates)

    def add(self, point: ResumePoint, *, starts_at_key_frame: bool) -> None:
        """Takes the next fragment's place; a decoder that starts at a key frame loses no picture."""
        last = self._candidates[-1] if self._candidates else None
        if last is not None and (last.starts_at_key_frame or not starts_at_key_frame):
            ahead = point.start_sample - last.point.start_sample
            if 0 <= ahead < SPACING_MS * SAMPLES_PER_MS:
                return
        self._candidates.append(_Candidate(point, starts_at_key_frame))

    def before(self, cut_sample: int) -> ResumePoint:
        """The last point one pre-roll or more before `cut_sample`, at a key frame if one is near; else the first of all.

        Points before it are dropped: a cut never moves back.

        Raises:
            LookupError: no point has been added.
        """
        if not self._candidates:
            raise LookupError("no fragment has been fed: there is nothing to resume from")
        chosen = self._choose(cut_sample - PRE_ROLL_MS * SAMPLES_PER_MS)
        while self._candidates[0] is not chosen:
            self._candidates.popleft()
        return chosen.point

    def _choose(self, latest_sample: int) -> _Candidate:
        chosen = at_key_frame = self._candidates[0]
        for candidate in self._candidates:
            if candidate is not self._candidates[0] and candidate.point.start_sample > latest_sample:
                break
            chosen = candidate
            if candidate.starts_at_key_frame:
                at_key_frame = candidate
        near = latest_sample - at_key_frame.point.start_sample <= KEY_ROLL_MAX_MS * SAMPLES_PER_MS
        return at_key_frame if at_key_frame.starts_at_key_frame and near else chosen
