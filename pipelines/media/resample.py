"""Decoded sound to blocks of one participant each: mono, 16 kHz, every sample at its exact place in the call.

A run is sound without a gap. Within it, place is a matter of counting: output sample `j` of the run stands for the
input time `j / 16000`, whatever the source's rate, and libswresample neither shifts nor loses a sample (it holds the
last few back until more sound comes or the run ends). Times in ms only say where a run starts, and when one ended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from models.types import SAMPLE_RATE_HZ, FloatArray
from pipelines.errors import ParticipantsError
from pipelines.types import SAMPLES_PER_MS, Channels, Participant

GAP_MIN_SAMPLES = 100 * SAMPLES_PER_MS
"""How far a fragment's own time may be from the count before the count is given up: 100 ms, for drifting clocks."""

_CANCELS = 2
"""By how much less is left of the channels than of a single one of them among silent ones: where one is the other upside down."""


def require_channels(channels: int, participants: Channels) -> None:
    """Return where there is one participant, or one for each channel.

    Raises:
        ParticipantsError: there is neither.
    """
    if len(participants) not in {1, channels}:
        raise ParticipantsError(
            f"{len(participants)} participants on {channels} channel(s): name one for each channel, or one for all"
        )


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """A run of decoded sound of one participant: mono (N,) float32 in [-1, 1] at 16 kHz.

    `start_sample` counts samples at 16 kHz from the start of the call.
    """

    participant: Participant
    start_sample: int
    samples: FloatArray = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sound:
    """Decoded sound of all channels, (channels, N) float32, at `rate_hz`.

    `index` is the exact place of the first sample in the source media at that rate, when known.
    """

    rate_hz: int
    samples: FloatArray = field(repr=False)
    index: int | None = None


class Timeline:
    """Places decoded sound on the call's time line, channel by channel, at 16 kHz.

    Args:
        start_sample: the exact place of the first sound to come, when an earlier run counted it; else its time in ms
            says where it starts.
    """

    def __init__(self, start_sample: int | None = None) -> None:
        self._start_sample = start_sample
        self._run: _Run | None = None

    def next_sample(self, start_ms: int, *, begins: bool = False) -> int:
        """Where in the call sound that says to start at `start_ms` will be placed; a recording that `begins` is no count's."""
        said = start_ms * SAMPLES_PER_MS
        if self._run is None:
            return said if self._start_sample is None else self._start_sample
        is_far = said - self._run.next_sample > GAP_MIN_SAMPLES
        return said if begins or is_far else self._run.next_sample

    def place(self, sound: Sound, participants: Channels, start_ms: int) -> list[AudioBlock]:
        """Places the sound of one fragment, which says to start at `start_ms`.

        More than 100 ms late is a gap: the next block starts later. More than 100 ms early is an overlap: the sound
        that is there already is dropped. The first sample of a recording starts a run of its own.

        Raises:
            MediaError: there is neither one participant nor one for each channel.
        """
        require_channels(sound.samples.shape[0], participants)
        if not sound.samples.shape[1]:
            return []
        begins = sound.index == 0
        start_sample = self.next_sample(start_ms, begins=begins)
        blocks: list[AudioBlock] = []
        if self._run is None or begins or not self._run.takes(sound.rate_hz, participants, start_sample):
            blocks = self.finish()
            self._run = _Run(sound, participants, start_sample)
        elif (early := start_sample - start_ms * SAMPLES_PER_MS) > GAP_MIN_SAMPLES:
            dropped = early * sound.rate_hz // SAMPLE_RATE_HZ
            sound = Sound(sound.rate_hz, sound.samples[:, dropped:])
        return blocks + self._run.feed(sound.samples)

    def follow(self, sound: Sound, participants: Channels) -> list[AudioBlock]:
        """Places sound right behind the last, whose rate or channels it need not share."""
        return self.place(sound, participants, self.next_sample(0) // SAMPLES_PER_MS)

    def finish(self) -> list[AudioBlock]:
        """The last samples of the run; more sound may follow and starts a new one."""
        run, self._run = self._run, None
        if run is None:
            return []
        self._start_sample = run.next_sample
        return run.finish()


class _Run:
    """Sound without a gap, on its way to 16 kHz."""

    def __init__(self, sound: Sound, participants: Channels, start_sample: int) -> None:
        self.rate_hz = sound.rate_hz
        self.participants = participants
        self._heard = [(channel, who) for channel, who in enumerate(participants) if who is not None]
        self._resamplers = [av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE_HZ) for _ in self._heard]
        # A run that starts in the middle of the media must resample on the grid of one that started at its
        # beginning: lead with zeros from the last place where an input and an output sample meet.
        period = self.rate_hz // math.gcd(self.rate_hz, SAMPLE_RATE_HZ)
        lead = (sound.index or 0) % period
        self._fed = self._out = 0
        self._base_sample = start_sample - self._outputs(lead)
        self._first_sample = start_sample
        if lead:
            self.feed(np.zeros((len(participants), lead), dtype=np.float32))

    def _outputs(self, inputs: int) -> int:
        """How many outputs stand for times before the end of that many inputs."""
        return -(-inputs * SAMPLE_RATE_HZ // self.rate_hz)

    @property
    def next_sample(self) -> int:
        """Where the next input sample goes."""
        return self._base_sample + self._outputs(self._fed)

    def takes(self, rate_hz: int, participants: Channels, start_sample: int) -> bool:
        return (rate_hz, participants, start_sample) == (self.rate_hz, self.participants, self.next_sample)

    def feed(self, samples: FloatArray) -> list[AudioBlock]:
        tracks = samples if len(self.participants) > 1 else mixed(samples)[np.newaxis]
        self._fed += tracks.shape[1]
        return self._blocks(
            [
                _resampled(resampler, tracks[channel], self.rate_hz)
                for resampler, (channel, _) in zip(self._resamplers, self._heard, strict=True)
            ]
        )

    def finish(self) -> list[AudioBlock]:
        missing = self._outputs(self._fed) - self._out
        tails = [_resampled(resampler, None, self.rate_hz) for resampler in self._resamplers]
        return self._blocks([np.pad(tail[:missing], (0, max(missing - len(tail), 0))) for tail in tails])

    def _blocks(self, outputs: Sequence[FloatArray]) -> list[AudioBlock]:
        at = self._base_sample + self._out
        self._out += len(outputs[0])
        dropped = max(self._first_sample - at, 0)
        return [
            AudioBlock(participant, at + dropped, np.clip(output[dropped:], -1, 1))
            for (_, participant), output in zip(self._heard, outputs, strict=True)
            if len(output) > dropped
        ]


def mixed(samples: FloatArray) -> FloatArray:
    """All channels (channels, N) as one (N,): their mean, or the loudest where they cancel each other out."""
    mean: FloatArray = samples.mean(axis=0, dtype=np.float32)
    if len(samples) == 1 or not mean.size:
        return mean
    # Of one channel that sounds and silent ones the mean has 1/n of its amplitude.
    loudness = samples.var(axis=1)
    loudest = int(loudness.argmax())
    cancelled = mean.var() * (_CANCELS * len(samples)) ** 2 < loudness[loudest]
    return samples[loudest] if cancelled else mean


def _resampled(resampler: av.AudioResampler, samples: FloatArray | None, rate_hz: int) -> FloatArray:
    """(N,) at `rate_hz` in, (M,) at 16 kHz out; None takes out what the filter still holds."""
    if rate_hz == SAMPLE_RATE_HZ:
        return np.empty(0, dtype=np.float32) if samples is None else samples
    if samples is not None and not len(samples):
        return samples
    frame = None
    if samples is not None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), None
    outputs = [np.asarray(output.to_ndarray()[0], dtype=np.float32) for output in resampler.resample(frame)]
    return np.concatenate(outputs) if outputs else np.empty(0, dtype=np.float32)
