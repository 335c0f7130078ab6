"""What the sender of a file is told of its end: nothing of a whole one, and of every one that is cut off or goes on."""

import io
import re
from contextlib import ExitStack
from typing import Any

import av
import pytest

from pipelines.media.byte_stream import ByteStream
from pipelines.media.joined import File
from pipelines.media.source import source_packets
from tests.pipelines import media_files as media
from tests.pipelines.media_files import CUSTOMER

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
FILES: list[tuple[str, str, int, dict[str, str]]] = [
    ("wav", "pcm_s16le", 16_000, {}),
    ("wav", "pcm_s16le", 16_000, {"rf64": "always"}),
    ("wav", "adpcm_ms", 16_000, {}),
    ("w64", "pcm_s16le", 16_000, {}),
    ("aiff", "pcm_s16be", 16_000, {}),
    ("au", "pcm_mulaw", 8000, {}),
    ("caf", "pcm_s16be", 16_000, {}),
    ("avi", "pcm_s16le", 16_000, {}),
    ("avi", "libmp3lame", 16_000, {}),
    ("asf", "libmp3lame", 44_100, {}),
    ("matroska", "libopus", 48_000, {}),
    ("webm", "libopus", 48_000, {}),
    ("ogg", "libopus", 48_000, {}),
    ("mp3", "libmp3lame", 44_100, {}),
    ("flac", "flac", 16_000, {}),
    ("flv", "aac", 44_100, {}),
    ("mp4", "aac", 44_100, {"movflags": "faststart"}),
    ("mp4", "aac", 44_100, FRAGMENTS),
    ("mp4", "aac", 44_100, {"movflags": "frag_every_frame+empty_moov"}),
]
PIPED: list[tuple[str, str, int, dict[str, str]]] = [
    *[one for one in FILES if one[0] not in {"aiff", "w64"} and one[3] in ({}, FRAGMENTS)],
    ("adts", "aac", 44_100, {}),
    ("mpegts", "aac", 44_100, {}),
    ("rm", "ac3", 44_100, {}),
]
JOINED = {"wav", "matroska", "webm", "flac", "avi", "ogg", "w64", "caf", "mp3"}
SAID = re.compile("the rest is missing|its end is missing|its end may be missing")


class Pipe:
    """What a muxer writes to, and cannot seek in."""

    def __init__(self) -> None:
        self.media = bytearray()

    def write(self, part: Any) -> int:
        """Appends."""
        self.media += bytes(part)
        return len(part)


def film(container: str, codec: str, rate_hz: int, options: dict[str, str], seconds: float = 4) -> bytes:
    return media.film(
        container, sound_codec=codec, samples=media.sound(seconds, rate_hz), rate_hz=rate_hz, options=options
    )


def told(whole: bytes, *, as_stream: bool = False) -> list[str]:
    file: File = ByteStream([whole]) if as_stream else io.BytesIO(whole)
    warnings: list[str] = []
    with ExitStack() as opened:
        assert list(source_packets(file, (CUSTOMER,), opened, warn=warnings.append))
    return warnings


@pytest.mark.parametrize("as_stream", [True, False])
@pytest.mark.parametrize(("container", "codec", "rate_hz", "options"), FILES)
def test_a_file_that_is_cut_off_says_so_and_a_whole_one_nothing(
    container: str, codec: str, rate_hz: int, options: dict[str, str], *, as_stream: bool
) -> None:
    whole = film(container, codec, rate_hz, options)
    assert told(whole, as_stream=as_stream) == []
    assert sum(SAID.search(one) is not None for one in told(whole[: len(whole) * 6 // 10], as_stream=as_stream)) == 1


@pytest.mark.parametrize(("container", "codec", "rate_hz", "options"), PIPED)
def test_what_is_written_to_a_pipe_knows_no_length_and_is_not_cut_off(
    container: str, codec: str, rate_hz: int, options: dict[str, str]
) -> None:
    pipe = Pipe()
    with av.open(pipe, "w", format=container, options=options) as output:
        for packet in media._sound_packets(output, codec, media.sound(2, rate_hz), rate_hz):
            output.mux(packet)
    whole = bytes(pipe.media)
    for as_stream in (True, False):
        assert told(whole, as_stream=as_stream) == []


@pytest.mark.parametrize("as_stream", [True, False])
def test_a_wav_says_how_many_seconds_are_missing(*, as_stream: bool) -> None:
    whole = film("wav", "pcm_s16le", 16_000, {}, 6)
    (warning,) = told(whole[: 44 + 2 * 48_000], as_stream=as_stream)
    assert "the stream says to last 6.0 s, and ends after 3.0 s: the rest is missing" in warning


@pytest.mark.parametrize("as_stream", [True, False])
@pytest.mark.parametrize("one", [one for one in FILES if one[0] in JOINED and one[3] == {} and one[1] != "adpcm_ms"])
def test_each_of_joined_files_is_held_against_what_it_says(
    one: tuple[str, str, int, dict[str, str]], *, as_stream: bool
) -> None:
    whole = film(*one)
    assert told(whole * 3, as_stream=as_stream) == []
    warnings = told(whole * 2 + whole[: len(whole) * 6 // 10], as_stream=as_stream)
    assert len(warnings) == 1
    assert SAID.search(warnings[0])
    assert ("file 3 of those joined in it" in warnings[0]) == (one[0] != "wav")  # which are read as one


def test_of_many_joined_files_some_are_said_and_the_others_counted() -> None:
    whole = film("flac", "flac", 16_000, {}, 3)
    *first, last = told(whole[: len(whole) // 2] * 15)
    assert len(first) == 10
    assert "5 more such sentences" in last


@pytest.mark.parametrize("as_stream", [True, False])
@pytest.mark.parametrize("junk", [b"this is no media at all, but a text of 45 bytes", bytes(45), b"\xff" * 300_000])
@pytest.mark.parametrize("one", [one for one in FILES if one[0] in {"mp4", "avi", "w64", "matroska", "aiff", "asf"}])
def test_junk_behind_a_file_is_counted(
    one: tuple[str, str, int, dict[str, str]], junk: bytes, *, as_stream: bool
) -> None:
    (warning,) = told(film(*one) + junk, as_stream=as_stream)
    assert f": {len(junk)} bytes behind the last packet were not read" in warning


def test_sound_behind_the_length_that_a_header_states_is_no_junk() -> None:
    """An AVI's RIFF of half the length: FFmpeg reads on."""
    whole = film("avi", "pcm_s16le", 16_000, {})
    shorter = whole[:4] + (len(whole) // 2).to_bytes(4, "little") + whole[8:]
    assert not any("were not read" in warning for warning in told(shorter))


def test_a_length_is_not_held_against_what_is_left_out() -> None:
    both = media.film(
        "mp4", picture_codec="libx264", seconds=6, sound_codec="aac", samples=media.sound(2, 48_000), rate_hz=48_000
    )
    warnings: list[str] = []
    with ExitStack() as opened:
        list(source_packets(io.BytesIO(both), (CUSTOMER,), opened, warn=warnings.append, is_seen=False))
    assert warnings == []
