"""When an utterance starts and ends: windows' probabilities of speech in, segments out. No clock, no sound, no IO."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from pipelines.media.vad import WINDOW_SAMPLES
from pipelines.settings import SegmentSettings
from pipelines.types import SAMPLES_PER_MS

HYSTERESIS: Final = 0.15
"""Speech goes on down to `speech_threshold - HYSTERESIS` (silero-vad's `neg_threshold`)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What the segmenter found in one participant's sound: `[start_sample, end_sample)` is an utterance.

    Everything before `cut_sample` is decided; detector and segmenter start fresh there. A segment with
    `start_sample == end_sample` is silence that only moves the cut.
    """

    start_sample: int
    end_sample: int
    cut_sample: int


class SpeechState(StrEnum):
    """Where a track stands between two utterances (the four states of pipecat's voice detector)."""

    SILENCE = "silence"
    STARTING = "starting"
    SPEAKING = "speaking"
    ENDING = "ending"


class Segmenter:
    """Groups windows of speech into utterances.

    Windows of speech belong together when less than `silence_end_ms` lies between them; the group is an utterance
    when they make up `speech_min_ms` at least. All lengths are counted in whole windows of 32 ms from the cut.

    After it has returned a segment the segmenter has started afresh at `cut_sample`: the caller resets its detector
    and feeds the sound from there again (no more than the padding, or `quiet_search_ms` after a forced cut). So a
    run that begins at any cut finds what the undisturbed run found. Cuts lie whole windows behind `start_sample`.
    """

    def __init__(self, settings: SegmentSettings, start_sample: int) -> None:
        """`start_sample` is the position of the first window, in samples at 16 kHz from the start of the call."""
        self._settings = settings
        self._voiced_min = max(1, _windows_up(settings.speech_min_ms))
        self._quiet_end = max(1, _windows_up(settings.silence_end_ms))
        self._silence_cut = max(1, _windows_up(settings.silence_cut_ms))
        self._padding = _windows_up(settings.padding_ms)
        self._search = settings.quiet_search_ms * SAMPLES_PER_MS // WINDOW_SAMPLES
        self._padding_samples = settings.padding_ms * SAMPLES_PER_MS
        self._length_max_samples = settings.utterance_max_ms * SAMPLES_PER_MS
        self.restart(start_sample)

    def restart(self, start_sample: int) -> None:
        """Forgets everything: the next window starts at `start_sample`."""
        self._base_sample = start_sample
        self._count = 0
        self._voiced = 0
        self._first: int | None = None
        self._quiet_from: int | None = None
        self._quiet = self._unsure = 0
        """Windows since `_quiet_from` that were quiet, and those behind them of which that is not known."""
        self._energies: deque[float] = deque(maxlen=max(1, self._search))

    @property
    def state(self) -> SpeechState:
        """The state after the last window."""
        if self._first is None:
            return SpeechState.SILENCE
        if self._voiced < self._voiced_min:
            return SpeechState.STARTING
        return SpeechState.SPEAKING if self._quiet_from is None else SpeechState.ENDING

    @property
    def needed_from_sample(self) -> int:
        """No later segment or cut reaches before this sample."""
        if self._first is not None:
            return self._start_sample(self._first)
        return self._sample(max(0, self._count - self._padding))

    def push(self, probability: float, energy: float, *, lost: bool = False) -> Segment | None:
        """Takes the next window's probability of speech in [0, 1] and its energy (any unit; more is louder).

        One of which a part was `lost`, and which is not heard as speech, is silence where there is silence on both sides of the loss. Behind
        speech it is not known what was lost: it is not counted towards the silence that ends speech, which then lasts twice as long at most.
        """
        self._count += 1
        self._energies.append(energy)
        self._update(probability, lost=lost)
        segment = self._decide()
        if segment is not None:
            self.restart(segment.cut_sample)
        return segment

    def close(self, end_sample: int) -> Segment:
        """The sound ends at `end_sample`: open speech becomes an utterance if it is long enough; the cut is there."""
        segment = _silence(end_sample)
        if self._first is not None and self._voiced >= self._voiced_min:
            segment = Segment(self._start_sample(self._first), min(self._end_sample(), end_sample), end_sample)
        self.restart(end_sample)
        return segment

    def _update(self, probability: float, *, lost: bool) -> None:
        window = self._count - 1
        starts = probability >= self._settings.speech_threshold
        if self._first is None:
            if starts:
                self._first, self._voiced = window, 1
        elif self._quiet_from is None:
            if probability >= self._settings.speech_threshold - HYSTERESIS:
                self._voiced += 1
            else:
                self._quiet_from = window
                self._quiet = self._unsure = 0
                self._count_quiet(lost=lost)
        elif starts:
            self._quiet_from = None
            self._voiced += 1
        else:
            self._count_quiet(lost=lost)

    def _count_quiet(self, *, lost: bool) -> None:
        if not lost:
            self._quiet += 1 + self._unsure
            self._unsure = 0
        elif self._quiet:
            self._unsure += 1

    def _decide(self) -> Segment | None:
        if self._first is None:
            return self._cut_silence() if self._count >= self._silence_cut else None
        if self._quiet_from is not None and (
            self._quiet >= self._quiet_end or self._count - self._quiet_from >= 2 * self._quiet_end
        ):
            if self._voiced >= self._voiced_min:
                return self._cut_speech(self._first)
            # A burst too short to be speech: silence, which has lasted since the cut.
            self._first, self._quiet_from, self._voiced = None, None, 0
            return None
        if self._sample(self._count + 1) - self._start_sample(self._first) > self._length_max_samples:
            return self._cut_forced(self._first)
        return None

    def _cut_silence(self) -> Segment:
        return _silence(self._sample(max(1, self._count - self._padding)))

    def _cut_speech(self, first: int) -> Segment:
        # The cut leaves the next utterance its padding, but never takes what this one already holds.
        end_sample = self._end_sample()
        held = -(-(end_sample - self._base_sample) // WINDOW_SAMPLES)
        cut = max(held, self._count - self._padding)
        return Segment(self._start_sample(first), end_sample, self._sample(cut))

    def _cut_forced(self, first: int) -> Segment:
        cut = self._sample(self._quietest_boundary(first))
        if self._voiced < self._voiced_min:
            return _silence(cut)
        return Segment(self._start_sample(first), min(self._end_sample(), cut), cut)

    def _quietest_boundary(self, first: int) -> int:
        """The window before which it is quietest around, among those of the last `quiet_search_ms`."""
        oldest = self._count - len(self._energies)
        candidates = [
            (before + after, boundary)
            for boundary, (before, after) in enumerate(pairwise(self._energies), oldest + 1)
            if boundary > first
        ]
        return min(candidates, default=(0.0, self._count))[1]

    def _sample(self, window: int) -> int:
        return self._base_sample + window * WINDOW_SAMPLES

    def _start_sample(self, first: int) -> int:
        return max(self._base_sample, self._sample(first) - self._padding_samples)

    def _end_sample(self) -> int:
        return self._sample(self._count if self._quiet_from is None else self._quiet_from) + self._padding_samples


def _silence(cut_sample: int) -> Segment:
    return Segment(cut_sample, cut_sample, cut_sample)


def _windows_up(length_ms: int) -> int:
    return -(-length_ms * SAMPLES_PER_MS // WINDOW_SAMPLES)
