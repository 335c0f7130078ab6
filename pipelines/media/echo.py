"""An echo suppressor (after ITU-T G.164): what is only the echo of another participant is taken out of a participant's sound.

A telephone, a headset or a stereo codec puts each party's voice on the other's channel too, later and lower. The speech detector
hears it there as speech. Values in, values out: what becomes of a sample depends on the sound from `LOOK_BACK_CELLS` before its
cell to `2 * WINDOW_CELLS` behind it, on a grid fixed in the call's time, and on nothing else.
"""

from collections.abc import Collection, Iterable
from itertools import permutations
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray
from pipelines.media.resample import AudioBlock
from pipelines.types import Participant

CELL_SAMPLES: Final = 512
"""32 ms: what is decided together."""
STEP_CELLS: Final = 6
WINDOW_CELLS: Final = 2 * STEP_CELLS
"""An echo path is looked for in 384 ms of sound, every 192 ms."""
DELAY_CELLS: Final = 10
"""An echo comes up to 320 ms late."""
LOOK_BACK_CELLS: Final = WINDOW_CELLS + DELAY_CELLS + 1
"""736 ms, so that a new owner, which reads a pre-roll of 1000 ms (`pipelines/media/resume.py`), decides the same."""
QUIETER: Final = 10 ** (-9 / 10)
"""Sound that is less than 9 dB below the other's is nobody's echo: two people may say the same."""
HEARD_MIN, SOURCE_MIN, NOISE_MAX = 68.0, 10_700.0, 3_400.0
"""-72, -50, -55 dB of full scale as squares of 16-bit steps: below the first no speech is found, and below the second no echo of it."""
VARIES_MIN: Final = 10.0
"""What stays below `NOISE_MAX` and within 10 dB, with `DELAY_CELLS` before it, is a line's noise, and not looked at."""
QUIET_CELLS_MIN: Final = 4
CORRELATION_MIN: Final = 0.25
"""With the other's sound at the best delay, cells of equal weight. Of two people 99 of 100 windows are below."""
EXPLAINED_CELLS_MIN: Final = 2
"""So many cells of a window must be the other's sound, through the path found, to half their power at least."""
ABOVE_PATH_MAX: Final = 2.0
"""What has at most twice the power of the loudest echo that the path gives around it is echo."""
_AROUND_BEFORE, _AROUND_BEHIND = 4, 2
"""Cells around, for the decay of a room and a path that is not exact."""
_DECIMATION: Final = 4
_CELL: Final = CELL_SAMPLES // _DECIMATION
"""Paths are looked for below 2 kHz, at a fourth of the rate."""
_TAPS, _TAPS_BEFORE, _RIDGE = 32, 4, 1e-3
"""A path is 8 ms long, and begins 1 ms before its peak."""
_FFT: Final = 2880
"""At least the decimated samples of `DELAY_CELLS + WINDOW_CELLS`, and fast."""
_AT_ONCE_CELLS: Final = 4
"""New sound waits until there is so much of it, 128 ms, since small fragments would cost a call of numpy for each."""
_LATE_SAMPLES: Final = 16_000
"""A participant whose sound is this far behind another's is taken as silent."""

Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
_Kind = TypeVar("_Kind", bound=np.generic)


class EchoSuppressor:
    """Silences what is only an echo in the sound of one stream's participants, and passes on everything else as it is.

    Sound that cannot be an echo, since it is loud, or nobody else spoke just before, is passed on after 160 ms of sound at most;
    the rest waits for up to 550 ms behind it.
    """

    def __init__(self) -> None:
        self._voices: dict[Participant, _Voice] = {}
        self._paths: list[_Path] = []
        self._known_cell = 0

    @property
    def held_bytes(self) -> int:
        """What the sound that is held takes in memory; bounded."""
        ends = ((voice.end_sample, voice.first_cell * CELL_SAMPLES) for voice in self._voices.values())
        return sum(end - start for end, start in ends) * np.dtype(np.float32).itemsize

    def feed(self, blocks: Iterable[AudioBlock], participants: Collection[Participant]) -> list[AudioBlock]:
        """Takes blocks, each participant's in order, of a stream with these participants; of one alone nothing is held."""
        if len(set(participants)) < 2:
            return [*self.finish(), *blocks]
        out: list[AudioBlock] = []
        for block in blocks:
            voice = self._voices.get(block.participant)
            if voice is not None and block.start_sample > voice.end_sample:  # a gap ends all that could be compared
                out += self.finish()
                voice = None
            if voice is None:
                voice = self._begin(block)
            voice.add(block.samples[max(0, voice.end_sample - block.start_sample) :])
        if not self._voices:
            return out
        ends = [voice.end_sample for voice in self._voices.values()]
        late = max(ends) - _LATE_SAMPLES
        known = max(min(ends), late) if set(participants) <= self._voices.keys() else late
        known_cell = known // CELL_SAMPLES
        if known_cell - self._known_cell < _AT_ONCE_CELLS:
            return out
        self._known_cell = known_cell
        return out + self._pass_on(known_cell)

    def finish(self) -> list[AudioBlock]:
        """What is still held; what is fed next is compared with nothing that came before."""
        last_cell = -(-max((voice.end_sample for voice in self._voices.values()), default=0) // CELL_SAMPLES)
        for voice in self._voices.values():
            voice.measure(ended=True)
        for path in self._paths:
            path.look(last_cell, ended=True)
        out = [block for voice in self._voices.values() for block in voice.take(voice.end_sample)]
        self._voices, self._paths, self._known_cell = {}, [], 0
        return out

    def _begin(self, block: AudioBlock) -> "_Voice":
        voice = self._voices[block.participant] = _Voice(block.participant, block.start_sample)
        self._paths += [_Path(a, b) for a, b in permutations(self._voices.values(), 2) if voice in (a, b)]
        return voice

    def _pass_on(self, complete_cells: int) -> list[AudioBlock]:
        for voice in self._voices.values():
            voice.measure()
        for path in self._paths:
            path.look(complete_cells)
        out: list[AudioBlock] = []
        for voice in self._voices.values():
            decided = min((path.decided_cell for path in self._paths if path.heard is voice), default=complete_cells)
            out += voice.take(min(decided * CELL_SAMPLES, voice.end_sample))
        windows = (path.next_window * STEP_CELLS for path in self._paths)
        needed = min(windows, default=complete_cells) - DELAY_CELLS - 1
        for voice in self._voices.values():
            voice.forget_before(needed)
        return out


class _Voice:
    """What is held of a participant's sound, from the start of a cell on; what lies outside of it is silence."""

    def __init__(self, participant: Participant, start_sample: int) -> None:
        self.participant = participant
        self.first_cell = start_sample // CELL_SAMPLES
        self.samples: FloatArray = np.zeros(start_sample % CELL_SAMPLES, np.float32)
        self.powers: Float64 = np.zeros(0)
        """Of its whole cells: the mean square in squares of 16-bit steps."""
        self.loudest: Float64 = np.zeros(0)
        """The largest power of the cell and of those whose echo may be in it."""
        self.echo: Mask = np.zeros(0, np.bool_)
        self._passed_sample = self.end_sample = start_sample
        self._new: list[FloatArray] = []

    def add(self, samples: FloatArray) -> None:
        self._new.append(samples)
        self.end_sample += samples.size

    def cells(self, start: int, stop: int) -> Float64:
        """(stop - start, _CELL): cells at 4 kHz in 16-bit steps, low and high tones lowered, so that peaks are sharp."""
        first, last = ((cell - self.first_cell) * CELL_SAMPLES for cell in (start, stop))
        steps = np.rint(_span(self.samples, first, last) * 32768)
        low: Float64 = (steps[::4] + steps[1::4] + steps[2::4] + steps[3::4]).astype(np.float64)
        low[2:] -= low[:-2].copy()
        return low.reshape(-1, _CELL)

    def take(self, until_sample: int) -> list[AudioBlock]:
        """The sound up to there that was not taken yet, echoes silenced."""
        start = self._passed_sample
        if until_sample <= start:
            return []
        begin = self.first_cell * CELL_SAMPLES
        samples = self.samples[start - begin : until_sample - begin]
        marks = self.echo[start // CELL_SAMPLES - self.first_cell : -(-until_sample // CELL_SAMPLES) - self.first_cell]
        if marks.any():
            silent = np.repeat(marks, CELL_SAMPLES)[start % CELL_SAMPLES :][: samples.size]
            samples = np.where(silent, np.float32(0), samples)
        self._passed_sample = until_sample
        return [AudioBlock(self.participant, start, samples)]

    def forget_before(self, cell: int) -> None:
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
        self.powers = np.concatenate([self.powers, _energies(steps.reshape(-1, _CELL)) / _CELL])
        reach = _span(self.powers, known - DELAY_CELLS, count)
        for shift in (1, 2, 4, 3):  # the largest of 2, 4, 8, 11 in a row
            reach = np.maximum(reach[shift:], reach[:-shift])
        self.loudest = np.concatenate([self.loudest, reach])
        self.echo = np.concatenate([self.echo, np.zeros(count - known, np.bool_)])


class _Path:
    """The way of one participant's voice to another's channel."""

    def __init__(self, heard: _Voice, other: _Voice) -> None:
        self.heard, self.other = heard, other
        self.next_window = heard.first_cell // STEP_CELLS - 1
        """Windows begin at multiples of `STEP_CELLS`; each cell lies in two."""
        self.decided_cell = heard.first_cell
        """Whether cells before this one hold an echo of the other's is known."""

    def look(self, complete_cells: int, *, ended: bool = False) -> None:
        """Marks echoes; the voices are known up to `complete_cells`, and no more of them will come when they have `ended`."""
        start = self.next_window * STEP_CELLS
        stop = max(complete_cells, start)
        quiet = self._quiet(start, stop)
        until = -(-complete_cells // STEP_CELLS) if ended else complete_cells // STEP_CELLS - 1
        for at in range(start, until * STEP_CELLS, STEP_CELLS):
            inside = _span(quiet, at - start, at - start + WINDOW_CELLS)
            if np.count_nonzero(inside) >= QUIET_CELLS_MIN:
                self._mark(at, inside)
        self.next_window = max(self.next_window, until)
        known = self.next_window * STEP_CELLS
        waiting = np.flatnonzero(quiet[max(known - start, 0) :])
        self.decided_cell = max(known, start) + int(waiting[0]) if waiting.size else stop

    def _quiet(self, start: int, stop: int) -> Mask:
        """Of cells: whether they can be an echo, from their power and what the other said just before."""
        powers = _span(self.heard.powers, start - self.heard.first_cell, stop - self.heard.first_cell)
        loudest = _span(self.other.loudest, start - self.other.first_cell, stop - self.other.first_cell)
        quiet: Mask = (powers > HEARD_MIN) & (powers < QUIETER * loudest) & (loudest > SOURCE_MIN)
        return quiet

    def _mark(self, start: int, quiet: Mask) -> None:
        first, stop = self.heard.first_cell, start + WINDOW_CELLS
        before = _span(self.heard.powers, start - DELAY_CELLS - first, stop - first)
        powers = before[DELAY_CELLS:]
        if powers[quiet].max() < min(VARIES_MIN * before.min(), NOISE_MAX):
            return
        source = self.other.cells(start - DELAY_CELLS - 1, stop)
        heard = self.heard.cells(start, stop)
        delay = _delay(heard, source[1:], quiet)
        gain = None if delay is None else _gain(heard, source, quiet, delay)
        if delay is None or gain is None:
            return
        shift = start - round(delay / _CELL) - self.other.first_cell
        loud = _span(self.other.powers, shift - _AROUND_BEFORE, shift + WINDOW_CELLS + _AROUND_BEHIND)
        around = np.lib.stride_tricks.sliding_window_view(loud, _AROUND_BEFORE + _AROUND_BEHIND + 1).max(axis=1)
        echo = quiet & (powers <= ABOVE_PATH_MAX * gain * around)
        inside = slice(max(start - first, 0), stop - first)
        marks = self.heard.echo[inside]
        marks |= echo[max(first - start, 0) :][: marks.size]


def _delay(heard: Float64, source: Float64, quiet: Mask) -> int | None:
    """At which delay, in samples at 4 kHz, the source is heard; None where it is not."""
    energies = _energies(source)
    own = heard * _weights(heard, quiet)
    other = source * _weights(source, energies > 1e-3 * energies.max())
    spectrum = np.fft.rfft(own.ravel(), _FFT) * np.conj(np.fft.rfft(other.ravel(), _FFT))
    alike = np.abs(np.fft.irfft(spectrum, _FFT))
    # Row 0 of the source stands `DELAY_CELLS` before row 0 of what is heard: a lag of minus that is no delay.
    by_delay = np.append(alike[-DELAY_CELLS * _CELL :], alike[0])
    delay = int(by_delay.argmax())
    return delay if by_delay[delay] >= CORRELATION_MIN * np.count_nonzero(quiet) else None


def _gain(heard: Float64, source: Float64, quiet: Mask, delay: int) -> float | None:
    """The gain of power on the path of about `delay`, found by least squares; None where the path explains too little."""
    first = max(delay - _TAPS_BEFORE, 0)
    lead = (DELAY_CELLS + 1) * _CELL - first - _TAPS + 1
    rows = np.lib.stride_tricks.sliding_window_view(source.ravel(), _TAPS)[lead : lead + heard.size]
    weights = np.repeat(_weights(heard, quiet), _CELL, axis=0)
    weighted = rows * weights
    gram = weighted.T @ weighted
    gram[np.diag_indices(_TAPS)] += _RIDGE * np.trace(gram) / _TAPS
    taps = np.linalg.solve(gram, weighted.T @ (heard.reshape(-1, 1) * weights))
    echo = (rows @ taps).reshape(heard.shape)
    energies, rests = _energies(echo), _energies(heard - echo)
    shift = DELAY_CELLS + 1 - round(delay / _CELL)
    said = _energies(source[shift : shift + WINDOW_CELLS])[quiet].sum()
    explained = np.count_nonzero(quiet & (rests <= energies / 2))
    return float(energies[quiet].sum() / said) if explained >= EXPLAINED_CELLS_MIN and said > 0 else None


def _weights(cells: Float64, kept: Mask) -> Float64:
    """(cells, 1): what makes each cell that is kept as loud as the others; 0 for the rest."""
    lengths = np.sqrt(_energies(cells))
    kept = kept & (lengths > 0)
    weights: Float64 = np.where(kept, 1 / np.where(kept, lengths, 1), 0)
    return weights[:, np.newaxis]


def _energies(cells: Float64) -> Float64:
    return np.asarray(np.einsum("ij,ij->i", cells, cells), np.float64)


def _span(values: NDArray[_Kind], start: int, stop: int) -> NDArray[_Kind]:
    """`values[start:stop]`, where the places before 0 and behind the end hold nothing."""
    if start >= 0 and stop <= values.size:
        return values[start:stop]
    inside = values[max(start, 0) : max(stop, 0)]
    before = min(max(-start, 0), stop - start)
    return np.pad(inside, (before, stop - start - before - inside.size))
