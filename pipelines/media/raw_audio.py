"""Sound without a container, as telephony sends it: which content types and extensions name it, and how it is decoded.

Linear 16-bit (RFC 2586, RFC 3551 §4.5.11; Asterisk's `sln`), G.711 (ITU-T G.711; RFC 2046 §4.3), G.722, G.729 and GSM 06.10 (RFC 3551 §4.5).
FFmpeg decodes all of it.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import PurePath
from typing import Final, NamedTuple, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext

from models.types import FloatArray
from pipelines.errors import MediaError
from pipelines.media.byte_order import is_byte_swapped

RATE_MIN_HZ = 4000
"""Half of the telephone's: below it there is no speech, and a small file would last for days."""


class _Encoding(NamedTuple):
    """A kind of raw sound: its subtype of `audio/` and other names of that, FFmpeg's decoder, and extensions of files."""

    name: str
    aliases: str
    decoder: str
    default_hz: int | None = None
    """None: the rate must be said."""
    rates_hz: tuple[int, ...] = ()
    """The only ones that may be said, where the encoding has one channel and one rate."""
    frame_bytes: int = 1
    frame_samples: int = 1
    """The least that can be decoded, of one channel."""
    extensions: str = ""


_LITTLE, _BIG = "pcm_s16le", "pcm_s16be"
_ENCODINGS: Final = (
    _Encoding("L16", "x-l16", _BIG, frame_bytes=2),  # network byte order: RFC 2586 §2
    _Encoding("pcm", "x-pcm", _LITTLE, frame_bytes=2),
    _Encoding("x-sln", "sln x-slin slin", _LITTLE, 8000, frame_bytes=2, extensions="sln slin"),
    _Encoding(
        "PCMU",
        "x-pcmu basic mulaw x-mulaw mu-law x-mu-law ulaw x-ulaw u-law x-u-law g711u x-g711u g711-ulaw g711-mulaw",
        "pcm_mulaw",
        8000,
        extensions="ulaw ul ulw mu mulaw pcmu g711u",
    ),
    _Encoding(
        "PCMA",
        "x-pcma alaw x-alaw a-law x-a-law x-alaw-basic g711a x-g711a g711-alaw",
        "pcm_alaw",
        8000,
        extensions="alaw al alw pcma g711a",
    ),
    # Its clock rate in RTP is 8000, by an error that stayed; it samples at 16000 (RFC 3551 §4.5.2).
    _Encoding("G722", "x-g722", "g722", 16_000, (8000, 16_000), frame_samples=2, extensions="g722"),
    _Encoding("GSM", "x-gsm", "gsm", 8000, (8000,), 33, 160, "gsm"),
    _Encoding("G729", "x-g729 g729a x-g729a", "g729", 8000, (8000,), 10, 80, "g729"),
)
_BY_TYPE: Final = {f"audio/{name.lower()}": row for row in _ENCODINGS for name in (row.name, *row.aliases.split())}
_BY_EXTENSION: Final = {name: f"audio/{row.name}" for row in _ENCODINGS for name in row.extensions.split()} | {
    f"sln{rate_hz // 1000}": f"audio/x-sln;rate={rate_hz}"  # Asterisk's
    for rate_hz in (12_000, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)
}
_OTHER_RAW = re.compile(
    r"audio/(?:x-)?(?:l\d+|lpcm|pcm[^/]*|raw|linear\d*|sli?n(?:ear)?\d*|(?:[auµ]|mu)-?law[^/]*|g\.?7\d\d[^/]*|gsm[^/]*|32kadpcm|dvi4|vdvi|lpc)"
)
"""Types of sound without a container that are not decoded, RFC 3551's and those made up after them: FFmpeg could only guess."""
ACCEPTED: Final = (
    f"sound without a container is {', '.join(f'audio/{row.name}' for row in _ENCODINGS)} (rate=…, channels=…; where it is linear "
    "endian=little or big), or a file named .alaw, .g722, .g729, .gsm, .sln, .sln16, .ulaw"
)
_CONTAINERS = (b"RIFF", b"RF64", b".snd", b"OggS", b"fLaC", b"\x1aE\xdf\xa3")
_GSM_MAGIC = 0xD
"""The first four bits of each of its frames (RFC 3551 §4.5.8.1). FFmpeg decodes others too."""
_FULL_SCALE = np.float32(32768)


@dataclass(frozen=True, slots=True)
class RawAudio:
    """What a content type such as `audio/L16;rate=8000;channels=2` says; samples of the channels are interleaved.

    `decoder` is FFmpeg's name; `frame_bytes`, of all channels, hold `frame_samples` of each, and are the least that can be decoded.
    """

    content_type: str = field(compare=False)
    decoder: str
    rate_hz: int
    channels: int
    frame_bytes: int
    frame_samples: int

    @property
    def frame_s(self) -> Fraction:
        """Seconds of a frame."""
        return Fraction(self.frame_samples, self.rate_hz)

    def check(self, media: bytes | bytearray) -> None:
        """Refuse what would be noise without a word: linear sound in the other order of bytes, and what is not cut at GSM's frames.

        Raises:
            MediaError: it is clearly so; says what to write instead.
        """
        whole = media[: len(media) // self.frame_bytes * self.frame_bytes]
        if self.decoder == "gsm" and whole:
            firsts = np.frombuffer(whole, dtype=np.uint8)[:: self.frame_bytes]
            if (firsts >> 4 != _GSM_MAGIC).mean() > 0.5:
                raise MediaError(
                    f"content type {self.content_type!r}: these are no frames of GSM 06.10; send whole ones, of 33 bytes each, or another type"
                )
        elif self.decoder in {_LITTLE, _BIG}:
            is_little = self.decoder == _LITTLE
            read = np.frombuffer(whole, dtype="<i2" if is_little else ">i2").reshape(-1, self.channels)
            if is_byte_swapped(read.astype(np.int16)):
                said, true = ("little", "big") if is_little else ("big", "little")
                raise MediaError(
                    f"content type {self.content_type!r}: read in {said}-endian order this is noise, and in {true}-endian order sound: "
                    f"write {self.content_type.partition(';')[0]};rate={self.rate_hz};channels={self.channels};endian={true}"
                )


class RawDecoder:
    """Decodes the raw sound of a stream's fragments; what its decoder remembers lives on as long as they are of one kind."""

    def __init__(self) -> None:
        self._raw: RawAudio | None = None
        self._codec: AudioCodecContext | None = None

    def decode(self, raw: RawAudio, media: bytes) -> tuple[FloatArray, int]:
        """Whole frames of `media` as (channels, N) float32 in [-1, 1], and 1 where a rest that is no whole frame was dropped, else 0.

        Raises:
            MediaError: it is not what `raw` says.
        """
        raw.check(media)
        codec = self._take(raw)
        whole_bytes = len(media) // raw.frame_bytes * raw.frame_bytes
        # Where packets may have any length FFmpeg says 0.
        packet_bytes = raw.frame_bytes if codec.frame_size else max(whole_bytes, 1)
        parts = [np.empty((0, raw.channels), dtype=np.float32)]
        try:
            for at in range(0, whole_bytes, packet_bytes):
                frames = codec.decode(av.Packet(media[at : at + packet_bytes]))
                parts += [np.asarray(one.to_ndarray(), dtype=np.float32).reshape(-1, raw.channels) for one in frames]
        except av.FFmpegError as error:
            raise MediaError(
                f"sound that says to be {raw.content_type!r} cannot be decoded ({error.strerror})"
            ) from error
        return np.ascontiguousarray(np.concatenate(parts).T) / _FULL_SCALE, int(whole_bytes < len(media))

    def _take(self, raw: RawAudio) -> AudioCodecContext:
        if self._codec is None or raw != self._raw:
            codec = cast(AudioCodecContext, av.CodecContext.create(raw.decoder, "r"))
            codec.sample_rate, codec.layout = raw.rate_hz, f"{raw.channels}C"
            codec.open()
            self._raw, self._codec = raw, codec
        return self._codec


def names_raw_audio(content_type: str) -> bool:
    """Whether it is of sound without a container, of a kind that is decoded here or not."""
    name = content_type.partition(";")[0].strip().lower()
    return name in _BY_TYPE or _OTHER_RAW.fullmatch(name) is not None


def raw_audio(content_type: str) -> RawAudio | None:
    """Reads a content type; None when it does not name raw sound.

    Raises:
        MediaError: it names raw sound that is not decoded here, its rate or channels are missing or out of range, or it has a
            parameter that means nothing here.
    """
    if not names_raw_audio(content_type):
        return None
    name, *pairs = [part.strip() for part in content_type.split(";")]
    encoding = _BY_TYPE.get(name.lower())
    if encoding is None:
        raise MediaError(f"content type {content_type[:255]!r} is not decoded; {ACCEPTED}")
    what = f"content type {content_type[:255]!r}"
    parameters = _parameters(pairs, what, is_linear=encoding.decoder in {_LITTLE, _BIG})
    try:
        rate_hz = int(
            parameters["rate"] if encoding.default_hz is None else parameters.get("rate", encoding.default_hz)
        )
        channels = int(parameters.get("channels", "1"))
    except (KeyError, ValueError):
        raise MediaError(f"{what}: write it like {name};rate=8000;channels=2") from None
    if not (RATE_MIN_HZ <= rate_hz <= 384_000 and 1 <= channels <= 64):
        raise MediaError(f"{what}: rate must be {RATE_MIN_HZ} to 384000 and channels 1 to 64")
    if encoding.rates_hz and (rate_hz not in encoding.rates_hz or channels != 1):
        raise MediaError(
            f"{what}: {encoding.name} has one channel and rate={encoding.default_hz}, which need not be said"
        )
    endian = parameters.get("endian")
    return RawAudio(
        content_type,
        encoding.decoder if endian is None else _LITTLE if endian == "little" else _BIG,
        encoding.default_hz if encoding.rates_hz and encoding.default_hz else rate_hz,
        channels,
        encoding.frame_bytes * channels,
        encoding.frame_samples,
    )


def content_type_of(file_name: str) -> str | None:
    """The content type that a file's extension says, where it is one of raw sound; FFmpeg cannot tell such files by their bytes.

    `.raw` and `.pcm` say nothing: every system means something else by them.
    """
    return _BY_EXTENSION.get(PurePath(file_name).suffix[1:].lower())


def is_container(head: bytes) -> bool:
    """Whether media that begins so is in a container after all, whatever its content type (`audio/basic` of an .au file) says."""
    return head.startswith(_CONTAINERS)


def _parameters(pairs: list[str], what: str, *, is_linear: bool) -> dict[str, str]:
    accepted = ["rate", "channels", *(["endian"] if is_linear else [])]
    parameters: dict[str, str] = {}
    for pair in pairs:
        key, _, value = (part.strip() for part in pair.partition("="))
        key = key.lower()
        if key in parameters:
            raise MediaError(f"{what}: {key} stands there twice")
        if pair and key not in accepted:
            raise MediaError(f"{what}: its parameter {key!r} is not known; those that are: {', '.join(accepted)}")
        if key == "endian" and value.lower() not in {"little", "big"}:
            raise MediaError(f"{what}: endian must be little or big")
        if pair:
            parameters[key] = value.lower()
    return parameters
