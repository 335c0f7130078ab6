"""Files that were joined end to end, and headers that are wrong about the length."""

import io
import struct
from collections.abc import Iterable

import numpy as np
import pytest

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.joined import FILES_MAX, UNREAD_MAX_BYTES, File, joined_files, unread_bytes
from tests.pipelines import media_files as media


def wav(
    samples: int, *, rate_hz: int = 16_000, says: int | None = None, before: bytes = b"", behind: bytes = b""
) -> bytes:
    """16 bits, mono, each sample its own number; `says` so many bytes of sound."""
    sound = (np.arange(samples) % 30_000).astype("<i2").tobytes()
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, rate_hz * 2, 2, 16)
    body = b"WAVE" + kind + before + struct.pack("<4sI", b"data", len(sound) if says is None else says) + sound + behind
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def chunk(name: bytes, size: int) -> bytes:
    return struct.pack("<4sI", name, size) + b"x" * (size + size % 2)


def read(files: Iterable[File]) -> list[bytes]:
    found = []
    for file in files:
        parts = []
        while part := file.read(1000):
            parts.append(part)
        found.append(b"".join(parts))
    return found


def sound_of(part: bytes) -> bytes:
    return part[part.index(b"data\xff\xff\xff\xff") + 8 :]


@pytest.mark.parametrize("says", [0, 2000, 0xFFFFFFFF, 0x7FFFF000, 999_999, None])
@pytest.mark.parametrize("as_stream", [True, False])
def test_a_wav_is_read_to_its_end_whatever_it_says(says: int | None, *, as_stream: bool) -> None:
    whole = wav(12_000, says=says)
    (part,) = read(joined_files(ByteStream([whole]) if as_stream else io.BytesIO(whole)))
    assert sound_of(part) == whole[44:]


def test_chunks_around_the_sound_are_no_sound() -> None:
    whole = wav(5000, before=chunk(b"LIST", 31), behind=chunk(b"LIST", 30) + chunk(b"id3 ", 7))
    (part,) = read(joined_files(ByteStream([whole])))
    assert sound_of(part) == wav(5000)[44:]


def test_joined_wavs_of_one_kind_are_one() -> None:
    (part,) = read(joined_files(ByteStream([wav(3000), wav(2000, behind=chunk(b"LIST", 8)), wav(1000, says=0)])))
    assert sound_of(part) == wav(3000)[44:] + wav(2000)[44:] + wav(1000)[44:]


def test_joined_wavs_of_other_kinds_are_read_one_by_one() -> None:
    parts = read(joined_files(ByteStream([wav(3000), wav(2000, rate_hz=8000), wav(1000)])))
    assert [len(sound_of(part)) for part in parts] == [6000, 4000, 2000]


def test_what_a_reader_leaves_of_a_wav_is_not_the_next_one() -> None:
    files = joined_files(ByteStream([wav(300_000), wav(2000, rate_hz=8000)]))
    assert next(files).read(100)
    assert len(sound_of(read(files)[0])) == 4000


SOUNDS = [
    ("matroska", "flac", 16_000),
    ("webm", "libopus", 48_000),
    ("flac", "flac", 44_100),
    ("mp3", "libmp3lame", 44_100),
    ("amr", "libopencore_amrnb", 8000),
    ("aiff", "pcm_s16be", 16_000),
    ("caf", "pcm_s16be", 16_000),
    ("w64", "pcm_s16le", 16_000),
    ("avi", "pcm_s16le", 16_000),
    ("flv", "aac", 44_100),
    ("mp4", "aac", 44_100),
]


@pytest.mark.parametrize(("container", "codec", "rate_hz"), SOUNDS)
def test_joined_files_are_read_one_by_one_from_a_file_and_from_a_stream(
    container: str, codec: str, rate_hz: int
) -> None:
    files = [
        media.film(container, sound_codec=codec, samples=media.sound(seconds, rate_hz), rate_hz=rate_hz)
        for seconds in (1, 0.3, 2)
    ]
    whole = b"".join(files)
    assert read(joined_files(io.BytesIO(whole))) == files
    assert read(joined_files(ByteStream([whole[:7], whole[7:9000], whole[9000:]]))) == files
    (only,) = joined_files(alone := io.BytesIO(files[0]))
    assert only is alone
    assert alone.tell() == 0
    first = next(halves := joined_files(ByteStream([whole])))
    assert first.read(100) in {files[0][:length] for length in range(1, 101)}
    assert read(halves) == files[1:]


def test_movies_of_fragments_are_told_apart_too() -> None:
    films = [
        media.film("mp4", picture_codec="libx264", seconds=1, options=options)
        for options in ({}, {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"})
    ]
    assert read(joined_files(io.BytesIO(b"".join(films)))) == films
    assert read(joined_files(ByteStream(films))) == films


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff",
        wav(10)[:40],
        struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", 0, b"moov"),
        struct.pack(">I4sQ", 1, b"ftyp", 3),
        (struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", 8, b"moov")) * 20,
        b"\x1aE\xdf\xa3",
        b"\x1aE\xdf\xa3\x00" * 20,
        b"\x1aE\xdf\xa3\x80" * 20,
        b"\x1aE\xdf\xa3\xff" * 20,
        b"FORM\xff\xff\xff\xffAIFF",
        b"RIFF\0\0\0\0AVI " * 20,
        b"#!AMR\n" * 100,
        b"fLaC\0\0\0\x22" * 100,
    ],
)
def test_spoilt_headers_end(whole: bytes) -> None:
    assert len(b"".join(read(joined_files(io.BytesIO(whole))))) <= len(whole) + 4


def test_too_many_files_are_refused() -> None:
    parts = [wav(1, rate_hz=8000 + n % 2) for n in range(FILES_MAX + 1)]
    with pytest.raises(MediaError, match="send them as several"):
        read(joined_files(ByteStream(parts)))


def test_bytes_that_nobody_read_are_counted() -> None:
    assert unread_bytes(ByteStream([b"x" * 1000, b"y" * 500])) == 1500
    assert unread_bytes(ByteStream(b"x" * (1 << 20) for _ in range(1000))) == UNREAD_MAX_BYTES
    file = io.BytesIO(b"x" * 1000)
    file.seek(400)
    assert unread_bytes(file) == 600
