"""Decodes one still picture from untrusted bytes."""

import struct
import zlib
from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame as DecodedPicture

from pipelines.errors import MediaError
from pipelines.media.passes import check_passes
from pipelines.media.pictures import fit_within
from pipelines.settings import StreamSettings
from pipelines.types import Pixels

_CODEC_BY_MAGIC = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "mjpeg"), (b"BM", "bmp"))

_PNG_CHUNKS_MAX = 65_536
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def picture_codec(head: bytes) -> str | None:
    """FFmpeg's name for the kind of picture that starts with `head` (16 bytes tell), None when it is no picture."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((codec for magic, codec in _CODEC_BY_MAGIC if head.startswith(magic)), None)


def read_picture(media: bytes, settings: StreamSettings) -> Pixels:
    """RGB (H, W, 3) uint8, its longer side at most `settings.video.side_max_px`.

    Only the decoder that its first bytes name is used: no container, so no way to another file. The orientation that
    a camera notes in EXIF is not applied.

    Raises:
        MediaError: it is not PNG, JPEG, WebP or BMP, is damaged, or has more pixels than the limits allow.
    """
    codec = picture_codec(media[:16])
    if codec is None:
        raise MediaError("the picture is neither PNG, JPEG, WebP nor BMP; convert it")
    check_passes(codec, media)
    if codec == "png":
        media = _bounded_png(media, settings.limits.picture_max_pixels)
    context = cast(VideoCodecContext, av.CodecContext.create(codec, "r"))
    context.options = {"max_pixels": str(settings.limits.picture_max_pixels)}
    try:
        frames = context.decode(av.Packet(media)) or context.decode(None)
        if frames:
            return _scaled(frames[0], settings.video.side_max_px)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"the picture cannot be decoded ({error}): it is damaged, or has more than "
            f"{settings.limits.picture_max_pixels} pixels"
        ) from error
    raise MediaError("the picture is cut off; send it again")


def _bounded_png(media: bytes, max_pixels: int) -> bytes:
    """The same picture without texts, profiles and whatever else unpacks, its pixels unpacked once to see that they end.

    FFmpeg unpacks a chunk of text, and pixels beyond the last row, however much that is: 32 MB become as many GB.

    Raises:
        MediaError: it has more pixels than `max_pixels`, or more data than its pixels take.
    """
    chunks = _png_chunks(media)
    head = next((chunk for chunk in chunks if chunk[4:8] == b"IHDR" and len(chunk) == 25), None)
    if head is None:
        raise MediaError("the picture cannot be decoded: the PNG has no header")
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 8)
    if width * height > max_pixels:
        raise MediaError(f"a picture of {width}x{height}: it has more than {max_pixels} pixels; send it smaller")
    # A row begins with a byte; the last terms are for an interlaced picture, of which one row comes in up to seven pieces.
    room_bytes = (width * depth * _PNG_CHANNELS.get(colour, 4) // 8 + 2) * height + 64 * (width + height)
    unpacking = zlib.decompressobj()
    try:
        for chunk in chunks:
            rest = chunk[8:-4] if chunk[4:8] == b"IDAT" and not unpacking.eof else b""
            while rest and room_bytes > 0:
                room_bytes -= len(unpacking.decompress(rest, 1 << 20))
                rest = unpacking.unconsumed_tail
    except zlib.error as error:
        raise MediaError(f"the picture cannot be decoded ({error}): it is damaged") from error
    if room_bytes <= 0:
        raise MediaError("a PNG that unpacks to more than its pixels; save it anew")
    return media[:8] + b"".join(chunks)


def _png_chunks(media: bytes) -> list[bytes]:
    """The chunks that make the picture (PNG §11.2, §11.3.2.1), each with its length, name and checksum."""
    chunks, at = list[bytes](), 8
    for _ in range(_PNG_CHUNKS_MAX):
        if at + 8 > len(media):
            return chunks
        size, kind = struct.unpack_from(">I4s", media, at)
        if kind in _PNG_KEPT:
            chunks.append(media[at : at + size + 12])
        if kind == b"IEND":
            return chunks
        at += size + 12
    raise MediaError(f"a PNG of more than {_PNG_CHUNKS_MAX} chunks; save it anew")


def _scaled(picture: DecodedPicture, side_max_px: int) -> Pixels:
    width, height = fit_within(picture.width, picture.height, side_max_px)
    return np.ascontiguousarray(picture.reformat(width, height, "rgb24").to_ndarray(), dtype=np.uint8)
