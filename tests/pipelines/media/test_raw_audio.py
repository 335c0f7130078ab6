"""Sound without a container: content types, and the values of ITU-T G.711."""

import numpy as np
import pytest

from pipelines.errors import MediaError
from pipelines.media.raw_audio import RATE_MIN_HZ, RawAudio, raw_audio


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        ("audio/L16;rate=8000;channels=2", RawAudio("L16", 8000, 2)),
        ("Audio/l16 ; Rate=16000", RawAudio("L16", 16_000, 1)),
        ("audio/PCMU", RawAudio("PCMU", 8000, 1)),  # RFC 3551: 8000 Hz where nothing is said
        ("audio/PCMA;rate=16000;channels=2", RawAudio("PCMA", 16_000, 2)),
    ],
)
def test_a_content_type_says_encoding_rate_and_channels(content_type: str, raw: RawAudio) -> None:
    assert raw_audio(content_type) == raw


@pytest.mark.parametrize("content_type", ["audio/x-matroska", "video/mp2t", "audio/L24;rate=8000", "", "audio/PCM"])
def test_what_is_left_to_ffmpeg_is_none(content_type: str) -> None:
    assert raw_audio(content_type) is None


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/L16",
        "audio/L16;rate=fast",
        f"audio/PCMU;rate={RATE_MIN_HZ - 1}",
        "audio/PCMA;rate=400000",
        "audio/L16;rate=8000;channels=0",
        "audio/L16;rate=8000;channels=65",
    ],
)
def test_a_rate_or_channels_that_are_missing_or_out_of_range_are_named(content_type: str) -> None:
    with pytest.raises(MediaError, match=content_type.split(";", maxsplit=1)[0]):
        raw_audio(content_type)


def test_linear_pcm_is_big_endian_interleaved_and_in_full_scale() -> None:
    media = np.array([[0, 16_384], [-32_768, 32_767]], ">i2").tobytes()
    assert RawAudio("L16", 8000, 2).decode(media).tolist() == [[0.0, -1.0], [0.5, 32_767 / 32_768]]


# Values of G.711 in 14 and 13 bits (tables 2a and 1a of the recommendation), on a scale of 16 bits: times 4 and 8.
@pytest.mark.parametrize(
    ("encoding", "code", "value"),
    [
        ("PCMU", 0x00, -8031 * 4),
        ("PCMU", 0x80, 8031 * 4),
        ("PCMU", 0x7F, 0),
        ("PCMU", 0xFF, 0),
        ("PCMU", 0xFE, 2 * 4),
        ("PCMU", 0xEF, 33 * 4),
        ("PCMA", 0xAA, 4032 * 8),
        ("PCMA", 0x2A, -4032 * 8),
        ("PCMA", 0xD5, 1 * 8),
        ("PCMA", 0x55, -1 * 8),
        ("PCMA", 0xC5, 33 * 8),
    ],
)
def test_g711_codes_have_the_values_of_the_recommendation(encoding: str, code: int, value: int) -> None:
    raw = raw_audio(f"audio/{encoding}")
    assert raw is not None
    assert raw.decode(bytes([code])).item() * 32_768 == value


def test_a_step_that_is_not_whole_is_left_over() -> None:
    assert RawAudio("L16", 8000, 2).decode(bytes(11)).shape == (2, 2)
    assert RawAudio("PCMU", 8000, 1).decode(b"").shape == (1, 0)
