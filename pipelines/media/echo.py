"""An echo suppressor (after ITU-T G.164): what is only the echo of another participant is taken out of a participant's sound.

A telephone, a headset or a stereo codec puts each party's voice on the other's channel too, later and lower. The speech detector
hears it there as speech. Values in, values out: what becomes of a sample depends on the sound from `LOOK_BACK_CELLS` before its
cell to `2 * WINDOW_CELLS` behind it, on a grid fixed in the call's time, and on nothing else.
"""

from collections.abc import Collection, Iterable
from itertools import permutations
from typing import Final

import numpy as np

from pipelines.media.echo_voice import CELL, CELL_SAMPLES, DELAY_CELLS, Float64, Mask, Voice, energies, span
from pipelines.media.resample import AudioBlock
from pipelines.types import Participant

STEP_CELLS: Final = 6
WINDOW_CELLS: Final = 2 * STEP_CELLS
"""An echo path is looked for in 384 ms of sound, every 192 ms."""
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
_TAPS, _TAPS_BEFORE, _RIDGE = 32, 4, 1e-3
"""A path is 8 ms long, and begins 1 ms before its peak."""
_FFT: Final = 2880
"""At least the decimated samples of `DELAY_CELLS + WINDOW_CELLS`, and fast."""
_AT_ONCE_CELLS: Final = 4
"""New sound waits until there is so much of it, 128 ms, since small fragments would cost a call of numpy for each."""
_LATE_SAMPLES: Final = 16_000
"""A participant whose sound is this far behind another's is taken as silent."""
_SILENT_SAMPLES: Final = 2 * _LATE_SAMPLES
"""Where nobody's sound came for longer, more than `LOOK_BACK_CELLS + 2 * WINDOW_CELLS`, nothing is held meanwhile."""


class EchoSuppressor:
    """Silences what is only an echo in the sound of one stream's participants, and passes on everything else as it is.

    Sound that cannot be an echo, since it is loud, or nobody else spoke just before, is passed on after 160 ms of sound at most;
    the rest waits for up to 550 ms behind it. Where no sound of a participant came, it is silent.
    """

    def __init__(self) -> None:
        self._voices: dict[Participant, Voice] = {}
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
        for block in sorted(blocks, key=lambda one: one.start_sample):
            ends = [voice.end_sample for voice in self._voices.values()]
            if ends and block.start_sample - max(ends) > _SILENT_SAMPLES:  # nothing before is looked at again
                out += self.finish()
            # Nobody's sound before this block is still to come, unless it is late; of a long fragment no more is held than of a short one.
            if self._voices and block.start_sample - self._known_cell * CELL_SAMPLES > 2 * _LATE_SAMPLES:
                out += self._pass_on((block.start_sample - _LATE_SAMPLES) // CELL_SAMPLES)
            self._begin({*participants, block.participant}, block.start_sample)
            out += self._voices[block.participant].add(block)
        if not self._voices:
            return out
        ends = [voice.end_sample for voice in self._voices.values()]
        known_cell = max(min(ends), max(ends) - _LATE_SAMPLES) // CELL_SAMPLES
        return out + self._pass_on(known_cell) if known_cell - self._known_cell >= _AT_ONCE_CELLS else out

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

    def _begin(self, participants: Collection[Participant], start_sample: int) -> None:
        """Voices for those who have none: silent up to here, and so far back as another's sound may still come."""
        if not self._voices:
            self._known_cell = max(0, start_sample - _LATE_SAMPLES) // CELL_SAMPLES
        first_cell = min((voice.first_cell for voice in self._voices.values()), default=self._known_cell)
        for participant in sorted(set(participants) - self._voices.keys()):
            voice = self._voices[participant] = Voice(participant, first_cell)
            self._paths += [_Path(a, b) for a, b in permutations(self._voices.values(), 2) if voice in (a, b)]

    def _pass_on(self, complete_cells: int) -> list[AudioBlock]:
        self._known_cell = complete_cells
        for voice in self._voices.values():
            voice.fill(complete_cells * CELL_SAMPLES)
            voice.measure()
        for path in self._paths:
            path.look(complete_cells)
        out: list[AudioBlock] = []
        for voice in self._voices.values():
            decided = min(path.decided_cell for path in self._paths if path.heard is voice)
            out += voice.take(min(decided * CELL_SAMPLES, voice.end_sample))
        needed = min(path.next_window * STEP_CELLS for path in self._paths) - DELAY_CELLS - 1
        for voice in self._voices.values():
            voice.forget_before(needed)
        return out


class _Path:
    """The way of one participant's voice to another's channel."""

    def __init__(self, heard: Voice, other: Voice) -> None:
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
            inside = span(quiet, at - start, at - start + WINDOW_CELLS)
            if np.count_nonzero(inside) >= QUIET_CELLS_MIN:
                self._mark(at, inside)
        self.next_window = max(self.next_window, until)
        known = self.next_window * STEP_CELLS
        waiting = np.flatnonzero(quiet[max(known - start, 0) :])
        self.decided_cell = max(known, start) + int(waiting[0]) if waiting.size else stop

    def _quiet(self, start: int, stop: int) -> Mask:
        """Of cells: whether they can be an echo, from their power and what the other said just before."""
        powers = span(self.heard.powers, start - self.heard.first_cell, stop - self.heard.first_cell)
        loudest = span(self.other.loudest, start - self.other.first_cell, stop - self.other.first_cell)
        quiet: Mask = (powers > HEARD_MIN) & (powers < QUIETER * loudest) & (loudest > SOURCE_MIN)
        return quiet

    def _mark(self, start: int, quiet: Mask) -> None:
        first, stop = self.heard.first_cell, start + WINDOW_CELLS
        before = span(self.heard.powers, start - DELAY_CELLS - first, stop - first)
        powers = before[DELAY_CELLS:]
        if powers[quiet].max() < min(VARIES_MIN * before.min(), NOISE_MAX):
            return
        source = self.other.cells(start - DELAY_CELLS - 1, stop)
        heard = self.heard.cells(start, stop)
        delay = _delay(heard, source[1:], quiet)
        gain = None if delay is None else _gain(heard, source, quiet, delay)
        if delay is None or gain is None:
            return
        shift = start - round(delay / CELL) - self.other.first_cell
        loud = span(self.other.powers, shift - _AROUND_BEFORE, shift + WINDOW_CELLS + _AROUND_BEHIND)
        around = np.lib.stride_tricks.sliding_window_view(loud, _AROUND_BEFORE + _AROUND_BEHIND + 1).max(axis=1)
        echo = quiet & (powers <= ABOVE_PATH_MAX * gain * around)
        inside = slice(max(start - first, 0), stop - first)
        marks = self.heard.echo[inside]
        marks |= echo[max(first - start, 0) :][: marks.size]


def _delay(heard: Float64, source: Float64, quiet: Mask) -> int | None:
    """At which delay, in samples at 4 kHz, the source is heard; None where it is not."""
    powers = energies(source)
    own = heard * _weights(heard, quiet)
    other = source * _weights(source, powers > 1e-3 * powers.max())
    spectrum = np.fft.rfft(own.ravel(), _FFT) * np.conj(np.fft.rfft(other.ravel(), _FFT))
    alike = np.abs(np.fft.irfft(spectrum, _FFT))
    # Row 0 of the source stands `DELAY_CELLS` before row 0 of what is heard: a lag of minus that is no delay.
    by_delay = np.append(alike[-DELAY_CELLS * CELL :], alike[0])
    delay = int(by_delay.argmax())
    return delay if by_delay[delay] >= CORRELATION_MIN * np.count_nonzero(quiet) else None


def _gain(heard: Float64, source: Float64, quiet: Mask, delay: int) -> float | None:
    """The gain of power on the path of about `delay`, found by least squares; None where the path explains too little."""
    first = max(delay - _TAPS_BEFORE, 0)
    lead = (DELAY_CELLS + 1) * CELL - first - _TAPS + 1
    rows = np.lib.stride_tricks.sliding_window_view(source.ravel(), _TAPS)[lead : lead + heard.size]
    weights = np.repeat(_weights(heard, quiet), CELL, axis=0)
    weighted = rows * weights
    gram = weighted.T @ weighted
    gram[np.diag_indices(_TAPS)] += _RIDGE * np.trace(gram) / _TAPS
    taps = np.linalg.solve(gram, weighted.T @ (heard.reshape(-1, 1) * weights))
    echo = (rows @ taps).reshape(heard.shape)
    powers, rests = energies(echo), energies(heard - echo)
    shift = DELAY_CELLS + 1 - round(delay / CELL)
    said = energies(source[shift : shift + WINDOW_CELLS])[quiet].sum()
    explained = np.count_nonzero(quiet & (rests <= powers / 2))
    return float(powers[quiet].sum() / said) if explained >= EXPLAINED_CELLS_MIN and said > 0 else None


def _weights(cells: Float64, kept: Mask) -> Float64:
    """(cells, 1): what makes each cell that is kept as loud as the others; 0 for the rest."""
    lengths = np.sqrt(energies(cells))
    kept = kept & (lengths > 0)
    weights: Float64 = np.where(kept, 1 / np.where(kept, lengths, 1), 0)
    return weights[:, np.newaxis]
