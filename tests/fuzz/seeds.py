"""Short valid media of every format, made by PyAV: what the fuzzer spoils."""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import av
import numpy as np

from tests.pipelines.media_files import cut, film, sound

RATE_HZ = 16_000
SECONDS = 0.6
_BITEXACT = {"fflags": "+bitexact"}
"""Without it Matroska and Ogg number themselves by chance."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A valid fragment of about half a second."""

    content_type: str
    media: bytes


@cache
def seeds() -> dict[str, Seed]:
    """By name of the format; the same bytes in every process of one version of PyAV."""
    return {
        "l16": Seed("audio/L16;rate=16000", _raw("pcm_s16be")),
        "pcmu": Seed("audio/PCMU;rate=16000;channels=1", _raw("pcm_mulaw")),
        "pcma": Seed("audio/PCMA;rate=16000;channels=1", _raw("pcm_alaw")),
        "wav": Seed("audio/wav", _sound("wav", "pcm_s16le")),
        "flac": Seed("audio/flac", _sound("flac", "flac")),
        "mp3": Seed("audio/mpeg", _sound("mp3", "libmp3lame")),
        "ogg": Seed("audio/ogg", _sound("ogg", "libopus", 48_000)),
        "adts": Seed("audio/aac", _sound("adts", "aac")),
        "matroska": Seed("audio/x-matroska", _sound("matroska", "flac")),
        "film": Seed("video/x-matroska", _film("matroska", "libx264", "libopus")),
        "fragment": Seed("video/x-matroska", cut(io.BytesIO(_film("matroska", "libx264", "flac")))[0].media),
        "webm": Seed("video/webm", _film("webm", "libvpx", "libopus")),
        "mp4": Seed("video/mp4", _film("mp4", "libx264", "aac")),
        "fmp4": Seed("video/mp4", _film("mp4", "libx264", "aac", movflags="frag_keyframe+empty_moov")),
        "mpegts": Seed("video/mp2t", _film("mpegts", "libx264", "aac")),
        "avi": Seed("video/x-msvideo", _film("avi", "mpeg4", "libmp3lame")),
        "flv": Seed("video/x-flv", _film("flv", "libx264", "aac")),
        "asf": Seed("video/x-ms-asf", _film("asf", "mpeg4", "libmp3lame")),
    }


def _raw(codec_name: str) -> bytes:
    codec: Any = av.CodecContext.create(codec_name, "w")
    codec.rate, codec.layout, codec.format = RATE_HZ, "mono", "s16"
    samples = (sound(SECONDS, RATE_HZ) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = RATE_HZ
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def _sound(container: str, codec: str, rate_hz: int = RATE_HZ) -> bytes:
    return film(container, sound_codec=codec, samples=sound(SECONDS, rate_hz), rate_hz=rate_hz, options=_BITEXACT)


def _film(container: str, picture_codec: str, sound_codec: str, **options: str) -> bytes:
    return film(
        container,
        picture_codec=picture_codec,
        sound_codec=sound_codec,
        samples=sound(SECONDS, 48_000),
        rate_hz=48_000,
        seconds=SECONDS,
        pictures_per_s=20,
        key_every=6,
        options={**_BITEXACT, **options},
        picture_options={"deadline": "realtime", "auto-alt-ref": "0"} if picture_codec == "libvpx" else {"bf": "2"},
    )
