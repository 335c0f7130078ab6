"""AIFF, RF64 and W64 whose headers say less of their sound than there is."""

import io
import struct

import pytest

from pipelines.media.byte_stream import ByteStream
from pipelines.media.joined import joined_files
from pipelines.media.sound_length import HEAD_BYTES, says_sound_length, sound_to_its_end
from tests.pipelines import media_files as media
from tests.pipelines.media.media_makers import Sound, write

W64 = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
LIST = b"list" + bytes.fromhex("2f91cf11a5d628db04c10000")
SECONDS = 3
KINDS = ["aiff", "aifc", "rf64", "bw64", "w64"]


def made(kind: str) -> bytes:
    """Three seconds at 16 kHz, mono."""
    samples = media.sound(SECONDS, 16_000)
    if kind in {"rf64", "bw64"}:
        options = {"rf64": "always"}
        whole = write("wav", Sound(samples, "pcm_s16le", 16_000), options=options)
        return kind.upper().encode() + whole[4:]
    codec = "pcm_s16be" if kind == "aiff" else "pcm_s16le"
    return write("w64" if kind == "w64" else "aiff", Sound(samples, codec, 16_000))


def says(kind: str, whole: bytes, length: int) -> bytes:
    """With a header that says so many bytes of samples."""
    mark, form, more = {"w64": (W64, "<Q", 24), "rf64": (b"ds64", "<Q", 0), "bw64": (b"ds64", "<Q", 0)}.get(
        kind, (b"SSND", ">I", 8)
    )
    at = whole.index(mark) + len(mark) + (12 if mark == b"ds64" else 0)
    return whole[:at] + struct.pack(form, length + more) + whole[at + struct.calcsize(form) :]


def heard_s(whole: bytes, *, as_stream: bool) -> tuple[float, list[str]]:
    warnings: list[str] = []
    source = iter([whole[at : at + 5000] for at in range(0, len(whole), 5000)]) if as_stream else io.BytesIO(whole)
    (samples,) = media.hear(media.cut(source, warn=warnings.append)).samples.values()
    return samples.size / 16_000, warnings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 32_000, 32_001])
@pytest.mark.parametrize("as_stream", [True, False])
def test_sound_is_read_to_its_end_whatever_the_header_says(kind: str, length: int, *, as_stream: bool) -> None:
    assert heard_s(says(kind, made(kind), length), as_stream=as_stream) == (SECONDS, [])


@pytest.mark.parametrize("as_stream", [True, False])
def test_joined_w64s_that_say_too_little_are_told_apart(*, as_stream: bool) -> None:
    assert heard_s(says("w64", made("w64"), 32_000) * 2, as_stream=as_stream) == (2 * SECONDS, [])


@pytest.mark.parametrize("as_stream", [True, False])
def test_a_w64_from_a_pipe_says_the_most_there_is_room_for(*, as_stream: bool) -> None:
    assert heard_s(says("w64", made("w64"), (1 << 63) - 25), as_stream=as_stream) == (SECONDS, [])


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_where_it_says_stays_as_it_is(kind: str) -> None:
    whole = made(kind)
    assert says_sound_length(whole[:24])
    assert sound_to_its_end(lambda: pytest.fail("it was read"), whole[:HEAD_BYTES]) is None


@pytest.mark.parametrize(
    ("kind", "chunk"),
    [
        ("aiff", b"ANNO" + struct.pack(">I", 5) + b"hello\0"),
        ("w64", LIST + struct.pack("<Q", 24 + 5) + b"hello\0\0\0"),
        ("rf64", b"LIST" + struct.pack("<I", 5) + b"hello\0"),
    ],
)
def test_chunks_behind_the_sound_are_no_sound(kind: str, chunk: bytes) -> None:
    assert heard_s(made(kind) + chunk, as_stream=True)[0] == SECONDS
    whole = made(kind) + chunk
    at, form = {"aiff": (4, ">I"), "w64": (16, "<Q"), "rf64": (20, "<Q")}[kind]
    counted = len(whole) if kind == "w64" else len(whole) - 8
    told = whole[:at] + struct.pack(form, counted) + whole[at + struct.calcsize(form) :]
    assert heard_s(told, as_stream=True) == heard_s(told, as_stream=False) == (SECONDS, [])
    junk = told + bytes(4000)  # behind the whole file: no part of it
    assert heard_s(junk, as_stream=True)[0] == heard_s(junk, as_stream=False)[0] == SECONDS


def test_an_aiff_that_tells_its_format_behind_its_sound_is_left_to_be_sought_in() -> None:
    whole = made("aiff")
    at, sound = whole.index(b"COMM"), whole.index(b"SSND")
    turned = says("aiff", whole[:at] + whole[sound:] + whole[at:sound], 32_000)
    file = io.BytesIO(turned)
    assert next(joined_files(file)) is file


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_is_cut_off_is_left_alone(kind: str) -> None:
    whole = made(kind)
    for length in range(16, 140):
        sound_to_its_end(lambda: ByteStream([whole]), whole[:length])


@pytest.mark.parametrize("as_stream", [False, True])
def test_an_empty_chunk_behind_the_sound_is_a_chunk(as_stream: bool) -> None:  # noqa: FBT001
    whole = made("aiff")
    behind = b"APPL" + bytes(4) + b"ID3 " + struct.pack(">I", 80_000) + bytes(80_000)
    longer = b"FORM" + struct.pack(">I", len(whole) + len(behind) - 8) + whole[8:] + behind
    assert heard_s(longer, as_stream=as_stream) == (SECONDS, [])
