"""What an echo suppressor (`pipelines/media/echo.py`) holds of a participant's sound: samples and powers on a grid of cells.

Where no sound came, there is silence. It is held, so that what came before is still compared, and is never passed on.
"""

from collections import deque
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray
from pipelines.media.resample import AudioBlock
from pipelines.types import Participant

CELL_SAMPLES: Final = 512
"""32 ms: what is decided together."""
DELAY_CELLS: Final = 10
"""An echo comes up to 320 ms late."""
_DECIMATION: Final = 4
CELL: Final = CELL_SAMPLES // _DECIMATION
"""Paths are looked for below 2 kHz, at a fourth of the rate."""

Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
_Kind = TypeVar("_Kind", bound=np.generic)


class Voice:
    """What is held of a participant's sound, from the start of a cell on; what lies outside of it is silence."""

    def __init__(self, participant: Participant, first_cell: int) -> None:
        self.participant = participant
        self.first_cell = first_cell
        self.samples: FloatArray = np.zeros(0, np.float32)
        self.powers: Float64 = np.zeros(0)
        """Of its whole cells: the mean square in squares of 16-bit steps."""
        self.loudest: Float64 = np.zeros(0)
        """The largest power of the cell and of those whose echo may be in it."""
        self.echo: Mask = np.zeros(0, np.bool_)
        self._passed_sample = self.end_sample = self._sound_end = first_cell * CELL_SAMPLES
        self._sound: deque[tuple[int, int]] = deque()
        """Where there is sound that was not taken yet; what is held between is silence in the place of sound that did not come."""
        self._new: list[FloatArray] = []

    def add(self, block: AudioBlock) -> list[AudioBlock]:
        """Holds what is new of a block. What comes where silence was taken for it already, late, is passed on as it is."""
        begin = max(block.start_sample, self._sound_end)
        samples = block.samples[begin - block.start_sample :]
        if not samples.size:
            return []
        self._sound_end = begin + samples.size
        late = min(max(self.end_sample - begin, 0), samples.size)
        out = [*self.take(begin), AudioBlock(self.participant, begin, samples[:late])] if late else []
        if late < samples.size:
            self.fill(begin)
            self._new.append(samples[late:])
            self._sound.append((begin + late, self._sound_end))
            self.end_sample = self._sound_end
        return out

    def fill(self, until_sample: int) -> None:
        """No sound came up to there."""
        if until_sample > self.end_sample:
            self._new.append(np.zeros(until_sample - self.end_sample, np.float32))
            self.end_sample = until_sample

    def cells(self, start: int, stop: int) -> Float64:
        """(stop - start, CELL): cells at 4 kHz in 16-bit steps, low and high tones lowered, so that peaks are sharp."""
        first, last = ((cell - self.first_cell) * CELL_SAMPLES for cell in (start, stop))
        steps = np.rint(span(self.samples, first, last) * 32768)
        low: Float64 = (steps[::4] + steps[1::4] + steps[2::4] + steps[3::4]).astype(np.float64)
        low[2:] -= low[:-2].copy()
        return low.reshape(-1, CELL)

    def take(self, until_sample: int) -> list[AudioBlock]:
        """The sound up to there that was not taken yet, echoes silenced."""
        out: list[AudioBlock] = []
        while self._sound and self._sound[0][0] < until_sample:
            start, end = self._sound.popleft()
            if end > until_sample:
                self._sound.appendleft((until_sample, end))
            out.append(AudioBlock(self.participant, start, self._without_echo(start, min(end, until_sample))))
        self._passed_sample = max(self._passed_sample, until_sample)
        return out

    def _without_echo(self, start_sample: int, until_sample: int) -> FloatArray:
        begin = self.first_cell * CELL_SAMPLES
        samples = self.samples[start_sample - begin : until_sample - begin]
        marks = self.echo[
            start_sample // CELL_SAMPLES - self.first_cell : -(-until_sample // CELL_SAMPLES) - self.first_cell
        ]
        if not marks.any():
            return samples
        silent = np.repeat(marks, CELL_SAMPLES)[start_sample % CELL_SAMPLES :][: samples.size]
        return np.where(silent, np.float32(0), samples)

    def forget_before(self, cell: int) -> None:
        """Drops cells before `cell` whose sound was taken."""
        count = max(min(cell, self._passed_sample // CELL_SAMPLES) - self.first_cell, 0)
        self.samples = self.samples[count * CELL_SAMPLES :]
        self.powers, self.loudest, self.echo = self.powers[count:], self.loudest[count:], self.echo[count:]
        self.first_cell += count

    def measure(self, *, ended: bool = False) -> None:
        """Joins what was added and takes the powers of its whole cells, and of a last one that is cut off where it has `ended`."""
        samples = self.samples = np.concatenate([self.samples, *self._new])
        self._new = []
        if ended:
            samples = np.pad(samples, (0, -samples.size % CELL_SAMPLES))
        known, count = self.powers.size, samples.size // CELL_SAMPLES
        # Integers, so that the sums do not depend on their order.
        steps = np.rint(samples[known * CELL_SAMPLES : count * CELL_SAMPLES : _DECIMATION] * 32768).astype(np.float64)
        self.powers = np.concatenate([self.powers, energies(steps.reshape(-1, CELL)) / CELL])
        reach = span(self.powers, known - DELAY_CELLS, count)
        for shift in (1, 2, 4, 3):  # the largest of 2, 4, 8, 11 in a row
            reach = np.maximum(reach[shift:], reach[:-shift])
        self.loudest = np.concatenate([self.loudest, reach])
        self.echo = np.concatenate([self.echo, np.zeros(count - known, np.bool_)])


def energies(cells: Float64) -> Float64:
    """(cells,): the sum of squares of each."""
    return np.asarray(np.einsum("ij,ij->i", cells, cells), np.float64)


def span(values: NDArray[_Kind], start: int, stop: int) -> NDArray[_Kind]:
    """`values[start:stop]`, where the places before 0 and behind the end hold nothing."""
    if start >= 0 and stop <= values.size:
        return values[start:stop]
    inside = values[max(start, 0) : max(stop, 0)]
    before = min(max(-start, 0), stop - start)
    return np.pad(inside, (before, stop - start - before - inside.size))
