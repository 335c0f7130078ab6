"""The pictures of a stream as they were sent: packets on the call's time line, checked without decoding any."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.passes import check_passes
from pipelines.settings import MediaLimits
from pipelines.types import Participant

PICTURES_MAX_PER_S = 240
_PIXEL_MAX_BYTES = 4
"""RGB and alpha of 8 bits, 4:2:0 and 4:2:2 of 10: a decoder keeps up to 16 pictures, deeper ones would take a gigabyte."""
_MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True, slots=True, eq=False)
class PicturePacket:
    """A picture that nobody has decoded yet, and who is in it.

    Attributes:
        participant: Who is in it.
        time_ms: When it is shown, from the start of the call.
        number: One more than that of the packet before, unless some are missing between them.
        packet: Its bytes and side data, its times in ms; it refers to nothing of the container that it came in.
        codec: The decoder of all packets of this kind, which may be anywhere in them; one participant's.
        pixels: Of a picture, as its stream declares it.
    """

    participant: Participant
    time_ms: int
    number: int
    packet: "Packet[Stream]"
    codec: VideoCodecContext
    pixels: int

    @property
    def is_key(self) -> bool:
        """Whether it can be decoded without any before it."""
        return self.packet.is_keyframe

    @property
    def is_shown(self) -> bool:
        """False for one that others only refer to (VP8's alternate reference: RFC 6386 §9.1, `show_frame`)."""
        return self.codec.name != "vp8" or bytes(self.packet)[0] & 0x10 > 0

    def follows(self, other: "PicturePacket | None") -> bool:
        """Whether a decoder that has taken the `other` may go on with this one."""
        return other is not None and self.codec is other.codec and self.number == other.number + 1


class PictureReader:
    """Places the packets of a stream's fragments; what is hostile by its declared size, depth or number is refused."""

    def __init__(self) -> None:
        self._codec: VideoCodecContext | None = None
        self._key: tuple[Any, ...] = ()
        self._number = 0

    def read(
        self,
        stream: VideoStream,
        packets: list["Packet[Stream]"],
        times_ms: list[int],
        participant: Participant,
        limits: MediaLimits,
    ) -> list[PicturePacket]:
        """These packets, shown at `times_ms`, in the order in which they are decoded.

        Raises:
            MediaError: larger or deeper pictures, more of them, or more work in a packet than `limits` allow.
        """
        first, pixels = self._number, stream.codec_context.width * stream.codec_context.height
        # Where they are refused, what follows does not go on from what came before.
        self._number += len(packets) + 1
        codec = self._taken(stream, participant, limits)
        check_pixels(len(packets) * pixels, limits)
        if len(packets) > limits.fragment_max_s * PICTURES_MAX_PER_S:
            raise MediaError(f"{len(packets)} pictures in one fragment; cut it shorter")
        for packet in packets:
            check_passes(codec.name, packet, codec.extradata)
        self._number -= 1
        return [
            PicturePacket(participant, time_ms, number, _copied(packet, time_ms), codec, pixels)
            for number, (packet, time_ms) in enumerate(zip(packets, times_ms, strict=True), first)
        ]

    def skip_to_key_frame(self) -> None:
        """A fragment is missing: the picture returns at the next key frame."""
        self._number += 1

    def _taken(self, stream: VideoStream, participant: Participant, limits: MediaLimits) -> VideoCodecContext:
        """The decoder of this fragment: the one that there is, if it goes on with it."""
        codec = stream.codec_context
        if codec.width * codec.height > limits.picture_max_pixels:
            raise MediaError(
                f"pictures of {codec.width}x{codec.height}; at most {limits.picture_max_pixels} pixels are allowed: "
                "send them smaller (settings: stream.limits.picture_max_pixels)"
            )
        check_depth(codec, limits)
        key = (participant, codec.name, codec.extradata, codec.width, codec.height)
        # A transport stream repeats its parameters at key frames only: without any, the fragment just goes on.
        if self._codec is not None and (key == self._key or (key[:3] == (*self._key[:2], None))):
            return self._codec
        codec.thread_count = 1
        codec.options = {"max_pixels": str(limits.picture_max_pixels)}
        self._codec, self._key = codec, key
        return codec


def _copied(packet: "Packet[Stream]", time_ms: int) -> "Packet[Stream]":
    """A packet refers to its stream, and so to a container that is closed, and to the whole fragment."""
    copy: Packet[Stream] = av.Packet(packet.size)  # with the padding that decoders read, which one of bytes has not
    copy.update(bytes(packet))
    for data in packet.iter_sidedata():
        copy.set_sidedata(data)
    copy.is_keyframe = packet.is_keyframe
    copy.pts = copy.dts = time_ms
    copy.time_base = _MILLISECOND
    return copy


def check_depth(codec: VideoCodecContext, limits: MediaLimits) -> None:
    """Pictures may take what those of the allowed size take in the usual formats, and no more.

    Raises:
        MediaError: they take more.
    """
    if codec.format is None:
        return
    size_bytes = sum(part.width * part.height * -(-part.bits // 8) for part in codec.format.components)
    if size_bytes > _PIXEL_MAX_BYTES * limits.picture_max_pixels:
        raise MediaError(
            f"pictures of {codec.width}x{codec.height} in {codec.format.name}, {size_bytes} bytes each; at most "
            f"{_PIXEL_MAX_BYTES * limits.picture_max_pixels} are allowed: send them smaller or as yuv420p"
        )


def check_pixels(pixels: int, limits: MediaLimits) -> None:
    """Refuse more pixels than those of a fragment's pictures may be.

    Raises:
        MediaError: they are.
    """
    if pixels > limits.pixels_per_fragment_max:
        raise MediaError(
            f"pictures of {pixels} pixels in one fragment; at most {limits.pixels_per_fragment_max} are decoded: cut it "
            "shorter, or send smaller or fewer pictures (settings: stream.limits.pixels_per_fragment_max)"
        )


def fit_within(width: int, height: int, side_max_px: int) -> tuple[int, int]:
    """Width and height scaled down so that the longer side is at most `side_max_px`; smaller pictures keep their size."""
    scale = min(1.0, side_max_px / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)
