"""One participant of one stream: sound and pictures in, stretches of speech with their pictures out. No IO, no clock."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from models.types import SAMPLE_RATE_HZ, FloatArray, Modality
from pipelines.media.picture_buffer import PictureBuffer
from pipelines.media.pictures import PicturePacket
from pipelines.media.resample import AudioBlock
from pipelines.media.segment import Segment, Segmenter, SpeechState
from pipelines.media.vad import WINDOW_SAMPLES, SpeechDetector
from pipelines.settings import StreamSettings
from pipelines.types import SAMPLES_PER_MS, VideoFrame

FRAMES_MAX: Final = 80
"""Pictures kept per utterance: 16 s at the default 5 per s."""
NOTHING: Final[frozenset[Modality]] = frozenset()
_WINDOWS_AT_ONCE: Final = 32
"""As many share the cost of a call of numpy; those behind a cut are taken again, so no more."""


@dataclass(frozen=True, slots=True)
class TrackSegment:
    """A segment with its samples and pictures, and the track's cut before it; silence holds neither."""

    segment: Segment
    expected_cut_sample: int
    samples: FloatArray
    frames: tuple[VideoFrame, ...]


class Track:
    """Detector and segmenter over one participant's sound, both fresh after every cut, beside the pictures.

    Pictures without sound, for `picture_window_ms` or for the whole stream, are utterances without samples.
    Memory is bounded by the longest utterance, or the picture window, and what one fragment brings.
    """

    def __init__(self, settings: StreamSettings, cut_sample: int) -> None:
        """`cut_sample` is the track's cut: what lies before is stored already and dropped here."""
        self.cut_sample = cut_sample
        self._segmenter = Segmenter(settings.segment, cut_sample)
        self._detector = SpeechDetector()
        self._buffer = np.zeros(0, np.float32)
        self._buffer_start = self._next_window = cut_sample
        self._gaps: list[tuple[int, int]] = []
        """Samples for which no sound came, of what is held."""
        self._has_sound = False
        """Whether there was sound since the cut; a new owner starts there and sees none before."""
        self._joined_max = settings.segment.silence_end_ms * SAMPLES_PER_MS
        self._picture_window = settings.segment.picture_window_ms * SAMPLES_PER_MS
        self._picture_period = round(SAMPLE_RATE_HZ / settings.video.frames_per_s)
        longest_ms = max(settings.segment.utterance_max_ms, settings.segment.picture_window_ms)
        # One picture per cell of a grid that is fixed in time: whatever came before, the same ones are kept.
        self._pictures = PictureBuffer(settings, cell_ms=max(1, -(-longest_ms // FRAMES_MAX)))
        self._pictures.forget_before(_ms_up(cut_sample))

    @property
    def end_sample(self) -> int:
        """Where the sound heard so far ends."""
        return self._buffer_start + self._buffer.size

    @property
    def held_bytes(self) -> int:
        """What the track's sound and pictures take in memory."""
        return self._buffer.nbytes + self._pictures.held_bytes

    def take_damaged(self) -> int:
        """How many packets of pictures could not be decoded, and were not returned yet."""
        return self._pictures.take_damaged()

    def skip_to(self, sample: int) -> None:
        """Drops sound and pictures before `sample`."""
        self._pictures.forget_before(_ms_up(sample))
        if sample > self.end_sample:
            self._restart(sample)

    def feed(
        self, blocks: Iterable[AudioBlock], pictures: Iterable[PicturePacket], *, ended: bool = False
    ) -> list[TrackSegment]:
        """Takes a fragment's sound and pictures; blocks in order; a gap as long as the silence that ends speech ends it.

        Nothing that comes later needs these pictures to be decoded where they have `ended`.
        """
        self._pictures.add(pictures, ended=ended)
        found: list[TrackSegment] = []
        for block in blocks:
            found += self._feed_block(block)
        start = self._segmenter.needed_from_sample
        if (
            self._segmenter.state is SpeechState.SPEAKING
        ):  # all of this will be an utterance: no need to do it all at its end
            self._pictures.decode_until(start // SAMPLES_PER_MS, self._next_window // SAMPLES_PER_MS)
        self._forget_before(start)
        return found + self._pictures_without_sound()

    def advance_past_silence(self, until_sample: int) -> list[TrackSegment]:
        """Moves the cut after the stream, which has come to `until_sample`, where that is far ahead of sound and pictures.

        It stays a picture window behind, for media that comes late, and moves by one at a time: one fragment's time may
        be wrong.
        """
        cut = self.end_sample + self._picture_window
        if until_sample - cut < self._picture_window or self._unheard():
            return []
        found = self._close()
        found.append(self._take(Segment(cut, cut, cut)))
        self._restart(cut)
        self._has_sound = False
        return found

    def open_speech(self) -> TrackSegment:
        """The utterance that goes on, as far as it has come, without its pictures; of no length in silence. Changes nothing.

        In a pause, which may be its end, it comes without samples.
        """
        state, end = self._segmenter.state, self._next_window
        speaks = state in (SpeechState.SPEAKING, SpeechState.ENDING)
        start = self._segmenter.needed_from_sample if speaks else end
        samples = self._slice(start if state is SpeechState.SPEAKING else end, end).copy()
        return TrackSegment(Segment(start, end, self.cut_sample), self.cut_sample, samples, ())

    def interrupt(self) -> list[TrackSegment]:
        """What comes next does not continue what came before: open speech, or pictures without sound, end here."""
        found = self._close()
        unheard = [] if self._has_sound else self._unheard()
        if unheard:
            start, end = (time_ms * SAMPLES_PER_MS for time_ms in (unheard[0], unheard[-1]))
            found.append(self._take_pictures(start, end + self._picture_period))
        self._pictures.clear()
        return found

    def finish(self) -> list[TrackSegment]:
        """The stream ends here: like `interrupt`, and the cut moves to the end of the sound."""
        found = self.interrupt()
        end = self.end_sample
        if end > self.cut_sample:
            found.append(self._take(Segment(end, end, end)))
        return found

    def _feed_block(self, block: AudioBlock) -> list[TrackSegment]:
        found: list[TrackSegment] = []
        samples = block.samples[max(0, self.end_sample - block.start_sample) :]
        if not samples.size:
            return found
        self._has_sound = True
        lost = block.start_sample - self.end_sample
        if lost >= self._joined_max:
            found += self._close()
            self._restart(block.start_sample)
        elif lost > 0:  # speech goes on over it, as over a pause
            self._gaps.append((self.end_sample, block.start_sample))
            samples = np.concatenate([np.zeros(lost, np.float32), samples])
        self._buffer = np.concatenate([self._buffer, samples])
        while self.end_sample - self._next_window >= WINDOW_SAMPLES:
            for window, energy in self._windows():
                segment = self._segmenter.push(self._detector.judge(window), energy, lost=self._is_lost())
                self._next_window += WINDOW_SAMPLES
                if segment is not None:
                    found.append(self._take(segment))
                    # The segmenter has started afresh at the cut: so must the detector.
                    self._next_window = segment.cut_sample
                    self._detector.reset()
                    break
        return found

    def _is_lost(self) -> bool:
        """Whether no sound came for a part of the next window."""
        start = self._next_window
        return any(begin < start + WINDOW_SAMPLES and start < end for begin, end in self._gaps)

    def _windows(self) -> Iterator[tuple[FloatArray, float]]:
        """The next windows, each (WINDOW_SAMPLES,), and their energies; `_WINDOWS_AT_ONCE` at most."""
        count = min((self.end_sample - self._next_window) // WINDOW_SAMPLES, _WINDOWS_AT_ONCE)
        end = self._next_window + count * WINDOW_SAMPLES
        windows = self._slice(self._next_window, end).reshape(count, WINDOW_SAMPLES)
        # Integers, so that the sum does not depend on the order of summation.
        energies = np.square(np.rint(windows * 32768).astype(np.int64)).sum(axis=1)
        return zip(windows, energies.tolist(), strict=True)

    def _close(self) -> list[TrackSegment]:
        end = self.end_sample
        segment = self._segmenter.close(end)
        found = [self._take(segment)] if segment.end_sample > segment.start_sample else []
        self._restart(end)
        return found

    def _restart(self, sample: int) -> None:
        self._segmenter.restart(sample)
        self._detector.reset()
        self._buffer = np.zeros(0, np.float32)
        self._buffer_start = self._next_window = sample

    def _take(self, segment: Segment) -> TrackSegment:
        start_ms, end_ms = segment.start_sample // SAMPLES_PER_MS, segment.end_sample // SAMPLES_PER_MS
        found = TrackSegment(
            segment,
            self.cut_sample,
            self._slice(segment.start_sample, segment.end_sample).copy(),
            self._pictures.take(start_ms, end_ms, FRAMES_MAX),
        )
        self.cut_sample = segment.cut_sample
        return found

    def _slice(self, start_sample: int, end_sample: int) -> FloatArray:
        return self._buffer[start_sample - self._buffer_start : end_sample - self._buffer_start]

    def _forget_before(self, sample: int) -> None:
        self._buffer = self._buffer[sample - self._buffer_start :].copy()
        self._buffer_start = sample
        self._gaps = [gap for gap in self._gaps if gap[1] > sample]
        self._pictures.forget_before(_ms_up(sample))

    def _unheard(self) -> list[int]:
        """When the pictures taken after the sound ended are shown, in ms."""
        return self._pictures.times(_ms_up(self.end_sample))

    def _pictures_without_sound(self) -> list[TrackSegment]:
        """Utterances of pictures that are ahead of the sound by a whole window: there is no sound."""
        found: list[TrackSegment] = []
        while unheard := [time_ms for time_ms in self._unheard() if time_ms <= self._pictures.settled_ms]:
            start = unheard[0] * SAMPLES_PER_MS
            if unheard[-1] * SAMPLES_PER_MS - start < self._picture_window:
                break
            found += self._close()
            found.append(self._take_pictures(start, start + self._picture_window))
        return found

    def _take_pictures(self, start_sample: int, end_sample: int) -> TrackSegment:
        found = self._take(Segment(start_sample, end_sample, end_sample))
        if not found.frames:  # none of them could be decoded: there is nothing to judge
            found = replace(found, segment=Segment(end_sample, end_sample, end_sample))
        self._restart(end_sample)
        self._has_sound = False
        self._pictures.forget_before(_ms_up(end_sample))
        return found


@dataclass(slots=True)
class ConsentedTrack:
    """A participant's track and what may be analysed of it now (None: no fragment has said so yet)."""

    track: Track
    needed_sample: int
    """A new owner of the stream must analyse the track from here on."""
    consent: frozenset[Modality] | None = None

    @property
    def nothing_pending(self) -> bool:
        """Whether it may not be analysed now, and everything found before is stored."""
        return self.consent == NOTHING and self.needed_sample >= self.track.cut_sample


def _ms_up(sample: int) -> int:
    return -(-sample // SAMPLES_PER_MS)
