"""Decoders that keep their state from fragment to fragment, and survive damaged packets."""

import time
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby
from typing import Any

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from av.packet import Packet
from av.stream import Stream

from models.types import SAMPLE_RATE_HZ, FloatArray
from pipelines.errors import MediaError
from pipelines.media.container import skipped_samples, time_s
from pipelines.media.resample import GAP_MIN_SAMPLES, Sound
from pipelines.settings import MediaLimits

_PLANES_MAX = 8
"""From so many planes on PyAV 18.1 reads beyond the list of planes, which FFmpeg does not end with a null there."""
_CHANGES_MAX = 100
"""Every change of rate or channels within a fragment costs new resamplers."""
_GAP_MIN_S = Fraction(GAP_MIN_SAMPLES, SAMPLE_RATE_HZ)


@dataclass(slots=True)
class DecodedSound:
    """Sounds in order, and how many packets were damaged.

    There is more than one where rate or channels change, or packets are missing: each with when it begins, in seconds of the packets'
    own clock; None where it follows the one before.
    """

    sounds: list[tuple[Fraction | None, Sound]] = field(default_factory=list)
    damaged: int = 0


class SoundDecoder:
    """Decodes the sound of a stream's fragments, as long as they are of one kind."""

    def __init__(self) -> None:
        self._codec: AudioCodecContext | None = None
        self._key: tuple[Any, ...] = ()
        self._channels = 1

    def decode(self, stream: AudioStream, packets: list["Packet[Stream]"], limits: MediaLimits) -> DecodedSound:
        """Every sample of these packets, silence of the same length where one is damaged.

        Raises:
            MediaError: more channels, a higher rate, more seconds or more work than `limits` allow.
        """
        began_s = time.thread_time()
        fresh = self._take(stream, limits)
        decoded, runs = DecodedSound(), list[tuple[Fraction | None, int, FloatArray]]()
        seconds, count = 0.0, 0
        begins: Fraction | None = None
        due_s = time_s(packets[0])
        for packet in packets:
            at_s = time_s(packet)
            if _GAP_MIN_S < at_s - due_s <= limits.fragment_max_s:
                begins = due_s = at_s
            chunks, damaged = self._chunks(packet, limits)
            decoded.damaged += damaged
            if fresh and chunks and packet is not packets[0] and not runs:
                chunks = [*_lead(packets[0], packet, chunks[0]), *chunks]
            runs += [(begins, rate_hz, samples) for rate_hz, samples in chunks]
            due_s += sum(Fraction(samples.shape[1], rate_hz) for rate_hz, samples in chunks)
            seconds += sum(samples.shape[1] / rate_hz for rate_hz, samples in chunks)
            count += sum(samples.size for _, samples in chunks)
            if seconds > limits.fragment_max_s:
                raise MediaError(f"more than {limits.fragment_max_s:g} s of sound in one fragment; cut it shorter")
            if count > limits.samples_per_fragment_max:
                raise MediaError(
                    f"more than {limits.samples_per_fragment_max} samples in one fragment; cut it shorter, or send a lower "
                    "rate or fewer channels (settings: stream.limits.samples_per_fragment_max)"
                )
            check_time(began_s, limits)
        decoded.sounds = _sounds(runs)
        return decoded

    def _take(self, stream: AudioStream, limits: MediaLimits) -> bool:
        """Keeps the decoder when this fragment goes on with it, else starts one; True when it is a new one."""
        codec = stream.codec_context
        if codec.channels > limits.channels_max or codec.sample_rate > limits.sample_rate_max_hz:
            raise MediaError(
                f"sound of {codec.channels} channels at {codec.sample_rate} Hz; at most {limits.channels_max} channels "
                f"at {limits.sample_rate_max_hz} Hz are allowed (settings: stream.limits)"
            )
        key = (codec.name, codec.extradata, codec.sample_rate, codec.channels)
        if self._codec is not None and key == self._key:
            return False
        # The encoder's delay is taken off once per stream, not once per fragment: see Demuxer.
        codec.flags2 |= Flags2.skip_manual
        codec.thread_count = 1
        self._codec, self._key, self._channels = codec, key, max(codec.channels, 1)
        return True

    def _chunks(self, packet: "Packet[Stream]", limits: MediaLimits) -> tuple[list[tuple[int, FloatArray]], int]:
        """What one packet gives, as (rate, (channels, N)), and 1 when it is damaged."""
        assert self._codec is not None  # noqa: S101 - decode() has just set it
        try:
            frames = self._codec.decode(packet)
            chunks = [(frame.sample_rate, _floats(frame, limits)) for frame in frames]
        except (av.FFmpegError, ValueError):
            rate_hz = self._codec.sample_rate or 1
            lost_s = max((packet.duration or 0) * packet.time_base, Fraction(0))
            if lost_s > limits.fragment_max_s:
                raise MediaError(
                    f"a damaged packet that says to last {float(lost_s):.3g} s; cut the media anew"
                ) from None
            lost = round(lost_s * rate_hz)
            return [(rate_hz, np.zeros((self._channels, lost), dtype=np.float32))], 1
        end = skipped_samples(packet)[1]
        if chunks and 0 < end <= chunks[-1][1].shape[1]:
            rate_hz, samples = chunks[-1]
            chunks[-1] = rate_hz, samples[:, : samples.shape[1] - end]
        damaged = 0
        for _, samples in chunks:
            if not np.isfinite(samples).all():
                np.nan_to_num(samples, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
                damaged = 1
        return chunks, damaged


def _sounds(runs: list[tuple[Fraction | None, int, FloatArray]]) -> list[tuple[Fraction | None, Sound]]:
    """Joins what is of one rate and number of channels and has no gap in it; see `DecodedSound`."""
    found: list[tuple[Fraction | None, Sound]] = []
    last: Fraction | None = None
    for (begins, rate_hz, _), group in groupby(runs, key=lambda run: (run[0], run[1], run[2].shape[0])):
        if len(found) == _CHANGES_MAX:
            raise MediaError(
                f"sound that changes its rate or channels, or stops, more than {_CHANGES_MAX} times in a fragment; re-encode it"
            )
        sound = Sound(rate_hz, np.concatenate([samples for _, _, samples in group], axis=1))
        found.append((None if begins == last else begins, sound))
        last = begins
    return found


def _lead(
    first: "Packet[Stream]", packet: "Packet[Stream]", chunk: tuple[int, FloatArray]
) -> list[tuple[int, FloatArray]]:
    """Silence for the packets that a decoder fresh in mid-stream swallows (Vorbis needs two for its first sound)."""
    rate_hz, samples = chunk
    if first.pts is None or packet.pts is None:
        return []
    lost = max(round((packet.pts - first.pts) * packet.time_base * rate_hz), 0)
    return [(rate_hz, np.zeros((samples.shape[0], min(lost, rate_hz)), dtype=np.float32))]


def _floats(frame: AudioFrame, limits: MediaLimits) -> FloatArray:
    """Any sample format as (channels, N) float32 with full scale at 1; a copy.

    Raises:
        ValueError: the frame passes limits that its stream keeps, so it is damaged.
    """
    if not (0 < frame.sample_rate <= limits.sample_rate_max_hz and frame.layout.nb_channels <= limits.channels_max):
        raise ValueError(f"a frame of {frame.layout.nb_channels} channels at {frame.sample_rate} Hz")
    if frame.format.is_planar and frame.layout.nb_channels >= _PLANES_MAX:
        packed = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
        (frame,) = packed.resample(frame)
    array = np.asarray(frame.to_ndarray())
    if frame.format.is_packed:
        array = array.reshape(-1, frame.layout.nb_channels).T
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is counted as damaged later
        samples = np.array(array, dtype=np.float32)
    if array.dtype.kind == "u":
        samples -= 128
    if array.dtype.kind != "f":
        samples /= np.float32(2 ** (8 * array.dtype.itemsize - 1))
    return samples


def check_time(began_s: float, limits: MediaLimits) -> None:
    """Ends decoding that began at `began_s` of this thread's processor time and takes too long.

    Raises:
        MediaError: it does.
    """
    if time.thread_time() - began_s > limits.decode_max_s:
        raise MediaError(
            f"decoding takes more than {limits.decode_max_s:g} s of processor time; cut it shorter, or send it in a codec that "
            "is faster to decode (settings: stream.limits.decode_max_s)"
        )
