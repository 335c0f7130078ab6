"""Sound without a container, as telephony sends it: linear 16-bit, mu-law and A-law (RFC 3551 §4.5, ITU-T G.711)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.types import FloatArray
from pipelines.errors import MediaError

RATE_MIN_HZ = 4000
"""Half of the telephone's: below it there is no speech, and a small file would last for days."""


@dataclass(frozen=True, slots=True)
class RawAudio:
    """What a content type such as `audio/L16;rate=8000;channels=2` says; samples of the channels are interleaved."""

    encoding: Literal["L16", "PCMU", "PCMA"]
    rate_hz: int
    channels: int

    @property
    def step_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * (2 if self.encoding == "L16" else 1)

    def decode(self, media: bytes) -> FloatArray:
        """Whole steps of `media` as (channels, N) float32 in [-1, 1]; what is left over at the end is dropped."""
        whole = media[: len(media) // self.step_bytes * self.step_bytes]
        if self.encoding == "L16":  # network byte order: RFC 2586 §2
            flat = np.frombuffer(whole, dtype=">i2").astype(np.float32)
        else:
            flat = (_mu_law() if self.encoding == "PCMU" else _a_law())[np.frombuffer(whole, dtype=np.uint8)]
        return np.ascontiguousarray(flat.reshape(-1, self.channels).T) / np.float32(32768)


def raw_audio(content_type: str) -> RawAudio | None:
    """Reads a content type; None when it does not name raw sound.

    Raises:
        MediaError: it names raw sound, but its rate or channels are missing or out of range.
    """
    name, *pairs = [part.strip() for part in content_type.split(";")]
    encodings: dict[str, Literal["L16", "PCMU", "PCMA"]] = {
        "audio/l16": "L16",
        "audio/pcmu": "PCMU",
        "audio/pcma": "PCMA",
    }
    encoding = encodings.get(name.lower())
    if encoding is None:
        return None
    parameters = {key.strip().lower(): value.strip() for key, _, value in (pair.partition("=") for pair in pairs)}
    try:
        rate_hz = int(parameters["rate"] if encoding == "L16" else parameters.get("rate", "8000"))
        channels = int(parameters.get("channels", "1"))
    except (KeyError, ValueError):
        raise MediaError(f"content type {content_type!r}: write it like audio/L16;rate=8000;channels=2") from None
    if not (RATE_MIN_HZ <= rate_hz <= 384_000 and 1 <= channels <= 64):
        raise MediaError(f"content type {content_type!r}: rate must be {RATE_MIN_HZ} to 384000 and channels 1 to 64")
    return RawAudio(encoding, rate_hz, channels)


def _mu_law() -> FloatArray:
    """The 256 values of G.711 mu-law on a 16-bit scale."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32)


def _a_law() -> FloatArray:
    """The 256 values of G.711 A-law on a 16-bit scale."""
    code = np.arange(256) ^ 0x55
    segment = (code & 0x70) >> 4
    step = (code & 0x0F) << 4
    magnitude = np.where(segment == 0, step + 8, (step + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.float32)
