"""Decodes one still picture from untrusted bytes."""

from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame as DecodedPicture

from pipelines.errors import MediaError
from pipelines.media.decode import fit_within
from pipelines.settings import StreamSettings
from pipelines.types import Pixels

_CODEC_BY_MAGIC = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "mjpeg"), (b"BM", "bmp"))


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


def _scaled(picture: DecodedPicture, side_max_px: int) -> Pixels:
    width, height = fit_within(picture.width, picture.height, side_max_px)
    return np.ascontiguousarray(picture.reformat(width, height, "rgb24").to_ndarray(), dtype=np.uint8)
