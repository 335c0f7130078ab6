"""Decoders that keep their state from fragment to fragment, and survive damaged packets."""

import time
from collections.abc import Iterator
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
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from models.types import FloatArray
from pipelines.errors import MediaError
from pipelines.media.container import skipped_samples
from pipelines.media.passes import check_passes
from pipelines.media.resample import Sound
from pipelines.settings import MediaLimits, VideoSettings
from pipelines.types import Participant, VideoFrame

PICTURES_MAX_PER_S = 240
_PLANES_MAX = 8
"""From so many planes on PyAV 18.1 reads beyond the list of planes, which FFmpeg does not end with a null there."""
_PIXEL_MAX_BYTES = 4
"""RGB and alpha of 8 bits, 4:2:0 and 4:2:2 of 10: a decoder keeps up to 16 pictures, deeper ones would take a gigabyte."""
_CHANGES_MAX = 100
"""Every change of rate or channels within a fragment costs new resamplers."""
_MILLISECOND = Fraction(1, 1000)


@dataclass(slots=True)
class DecodedSound:
    """Sounds in order (more than one when rate or channels change) and how many packets were damaged."""

    sounds: list[Sound] = field(default_factory=list)
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
        decoded, runs = DecodedSound(), list[tuple[int, FloatArray]]()
        seconds, count = 0.0, 0
        for packet in packets:
            chunks, damaged = self._chunks(packet, limits)
            decoded.damaged += damaged
            if fresh and chunks and packet is not packets[0] and not runs:
                chunks = [*_lead(packets[0], packet, chunks[0]), *chunks]
            runs += chunks
            seconds += sum(samples.shape[1] / rate_hz for rate_hz, samples in chunks)
            count += sum(samples.size for _, samples in chunks)
            if seconds > limits.fragment_max_s:
                raise MediaError(f"more than {limits.fragment_max_s:g} s of sound in one fragment; cut it shorter")
            if count > limits.samples_per_fragment_max:
                raise MediaError(
                    f"more than {limits.samples_per_fragment_max} samples in one fragment; cut it shorter, or send a lower "
                    "rate or fewer channels (settings: stream.limits.samples_per_fragment_max)"
                )
            _check_time(began_s, limits)
        for (rate_hz, _), group in groupby(runs, key=lambda run: (run[0], run[1].shape[0])):
            if len(decoded.sounds) == _CHANGES_MAX:
                raise MediaError(
                    f"sound that changes its rate or channels more than {_CHANGES_MAX} times; re-encode it"
                )
            decoded.sounds.append(Sound(rate_hz, np.concatenate([samples for _, samples in group], axis=1)))
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


class PictureDecoder:
    """Decodes the pictures of a stream's fragments and keeps the first of each slot of `1 / frames_per_s`.

    The slots are counted on the call's time axis, so the choice does not depend on how the stream was cut.
    """

    def __init__(self, settings: VideoSettings) -> None:
        self._settings = settings
        self._rate = Fraction(settings.frames_per_s).limit_denominator(1000)
        self._codec: VideoCodecContext | None = None
        self._key: tuple[Any, ...] = ()
        self._waits_for_key = True
        self._slot = -1
        self._pixels = 0

    def decode(
        self,
        stream: VideoStream,
        packets: list["Packet[Stream]"],
        times_ms: list[int],
        participant: Participant,
        limits: MediaLimits,
    ) -> tuple[list[VideoFrame], int]:
        """The sampled pictures of these packets, shown at `times_ms`, and how many packets were damaged.

        Raises:
            MediaError: larger pictures, more of them or more work than `limits` allow.
        """
        began_s = time.thread_time()
        self._take(stream, limits)
        _check_pixels(len(packets) * stream.codec_context.width * stream.codec_context.height, limits)
        self._pixels = 0
        if len(packets) > limits.fragment_max_s * PICTURES_MAX_PER_S:
            raise MediaError(f"{len(packets)} pictures in one fragment; cut it shorter")
        sampled, damaged = list[VideoFrame](), 0
        for packet, time_ms in zip(packets, times_ms, strict=True):
            if self._waits_for_key and not packet.is_keyframe:
                continue
            self._waits_for_key = False
            check_passes(stream.codec_context.name, packet, None if self._codec is None else self._codec.extradata)
            packet.pts = packet.dts = time_ms
            packet.time_base = _MILLISECOND
            try:
                sampled += self._frames(packet, participant)
            except (av.FFmpegError, ValueError):
                damaged += 1
            # The declared size need not be that of the decoded pictures.
            _check_pixels(self._pixels, limits)
            _check_depth(self._codec, limits)
            _check_time(began_s, limits)
        return sampled, damaged

    def skip_to_key_frame(self) -> None:
        """A fragment is missing: the picture returns at the next key frame."""
        if self._codec is not None and self._codec.is_open:
            self._codec.flush_buffers()
        self._waits_for_key = True

    def finish(self, participant: Participant) -> list[VideoFrame]:
        """The pictures that the decoder still holds back."""
        if self._codec is None or not self._codec.is_open:
            return []
        try:
            return list(self._frames(None, participant))
        except av.FFmpegError:
            return []
        finally:
            self._codec = None

    def _take(self, stream: VideoStream, limits: MediaLimits) -> None:
        codec = stream.codec_context
        if codec.width * codec.height > limits.picture_max_pixels:
            raise MediaError(
                f"pictures of {codec.width}x{codec.height}; at most {limits.picture_max_pixels} pixels are allowed: "
                "send them smaller (settings: stream.limits.picture_max_pixels)"
            )
        _check_depth(codec, limits)
        key = (codec.name, codec.extradata, codec.width, codec.height)
        # A transport stream repeats its parameters at key frames only: without any, the fragment just goes on.
        if self._codec is not None and (key == self._key or (key[:2] == (self._key[0], None))):
            return
        codec.thread_count = 1
        codec.options = {"max_pixels": str(limits.picture_max_pixels)}
        self._codec, self._key, self._waits_for_key = codec, key, True

    def _frames(self, packet: "Packet[Stream] | None", participant: Participant) -> Iterator[VideoFrame]:
        assert self._codec is not None  # noqa: S101 - both callers have looked
        for frame in self._codec.decode(packet):
            self._pixels += frame.width * frame.height
            if frame.pts is None:
                continue
            slot = frame.pts * self._rate // 1000
            if slot <= self._slot:
                continue
            self._slot = int(slot)
            width, height = fit_within(frame.width, frame.height, self._settings.side_max_px)
            rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
            turned = np.rot90(rgb, k=round(frame.rotation / 90)) if frame.rotation % 360 else rgb
            yield VideoFrame(participant, frame.pts, np.ascontiguousarray(turned, dtype=np.uint8))


def fit_within(width: int, height: int, side_max_px: int) -> tuple[int, int]:
    """Width and height scaled down so that the longer side is at most `side_max_px`; smaller pictures keep their size."""
    scale = min(1.0, side_max_px / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _check_time(began_s: float, limits: MediaLimits) -> None:
    if time.thread_time() - began_s > limits.decode_max_s:
        raise MediaError(
            f"decoding takes more than {limits.decode_max_s:g} s of processor time; cut it shorter, or send it in a codec that "
            "is faster to decode (settings: stream.limits.decode_max_s)"
        )


def _check_depth(codec: VideoCodecContext | None, limits: MediaLimits) -> None:
    """Pictures may take what those of the allowed size take in the usual formats, and no more."""
    if codec is None or codec.format is None:
        return
    size_bytes = sum(part.width * part.height * -(-part.bits // 8) for part in codec.format.components)
    if size_bytes > _PIXEL_MAX_BYTES * limits.picture_max_pixels:
        raise MediaError(
            f"pictures of {codec.width}x{codec.height} in {codec.format.name}, {size_bytes} bytes each; at most "
            f"{_PIXEL_MAX_BYTES * limits.picture_max_pixels} are allowed: send them smaller or as yuv420p"
        )


def _check_pixels(pixels: int, limits: MediaLimits) -> None:
    if pixels > limits.pixels_per_fragment_max:
        raise MediaError(
            f"pictures of {pixels} pixels in one fragment; at most {limits.pixels_per_fragment_max} are decoded: cut it "
            "shorter, or send smaller or fewer pictures (settings: stream.limits.pixels_per_fragment_max)"
        )
