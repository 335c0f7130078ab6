"""Decodes the pictures of a stream, and keeps those that are looked at."""

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.decode import check_time
from pipelines.media.passes import check_passes
from pipelines.settings import MediaLimits, VideoSettings
from pipelines.types import Participant, VideoFrame

PICTURES_MAX_PER_S = 240
_PIXEL_MAX_BYTES = 4
"""RGB and alpha of 8 bits, 4:2:0 and 4:2:2 of 10: a decoder keeps up to 16 pictures, deeper ones would take a gigabyte."""
_MILLISECOND = Fraction(1, 1000)


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
            check_time(began_s, limits)
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
