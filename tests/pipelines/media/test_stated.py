"""What headers say of where a file ends."""

import struct

import pytest

from pipelines.media.stated import SLACK_BYTES, Ends, id3_bytes, is_unknown, measure, mp3_length_s, stated_bytes
from tests.pipelines import media_files as media

FILES = [
    ("wav", "pcm_s16le", {"rf64": "always"}),
    ("w64", "pcm_s16le", {}),
    ("caf", "pcm_s16be", {}),
    ("au", "pcm_mulaw", {}),
    ("matroska", "flac", {}),
    ("asf", "libmp3lame", {}),
]


def film(container: str, codec: str, **options: str) -> bytes:
    return media.film(container, sound_codec=codec, samples=media.sound(1, 16_000), rate_hz=16_000, options=options)


@pytest.mark.parametrize(("container", "codec", "options"), FILES)
def test_a_whole_file_is_as_long_as_it_says_and_half_of_it_is_not(
    container: str, codec: str, options: dict[str, str]
) -> None:
    whole = film(container, codec, **options)
    assert stated_bytes(whole[:8192]) == len(whole)
    measure(whole[:8192], len(whole), ends := Ends())
    assert ends == Ends()
    measure(whole[:8192], len(whole) // 2, ends)
    assert ends.missing_bytes == len(whole) - len(whole) // 2


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF, 0x80000000])
def test_what_is_written_to_a_pipe_says_no_length(length: int) -> None:
    assert is_unknown(length)
    assert stated_bytes(b".snd" + struct.pack(">II", 24, length)) is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"fLaC",
        b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQ", 28, (1 << 63) - 1),
        b"RF64\xff\xff\xff\xffWAVEds64",
        b"caff\0\1\0\0data" + b"\xff" * 8,
        b"caff\0\1\0\0desc" + b"\x7f" * 8,
        b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7,
        b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\xff",
        b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x01",
        b"\x1aE\xdf\xa3\x00",
        b".snd",
    ],
)
def test_a_header_that_does_not_know_says_nothing(head: bytes) -> None:
    assert stated_bytes(head) is None


def test_lengths_that_count_their_own_header_are_no_missing_end() -> None:
    ends = Ends()
    ends.fall_short(SLACK_BYTES)
    assert ends.missing_bytes == 0
    ends.fall_short(SLACK_BYTES + 1)
    assert ends.missing_bytes == SLACK_BYTES + 1


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 22_050, 16_000, 8000])
@pytest.mark.parametrize("version", ["0", "3"])
def test_an_mp3_says_how_many_frames_it_has(rate_hz: int, version: str) -> None:
    whole = media.film(
        "mp3",
        sound_codec="libmp3lame",
        samples=media.sound(5, rate_hz),
        rate_hz=rate_hz,
        options={"id3v2_version": version},
    )
    told_s = mp3_length_s(whole[id3_bytes(whole[:10]) :][:192])
    assert told_s is not None
    assert float(told_s) == pytest.approx(5, abs=0.2)


def test_an_mp3_without_a_count_says_nothing() -> None:
    whole = film("mp3", "libmp3lame", write_xing="0", id3v2_version="0")
    assert mp3_length_s(whole[:192]) is None
    for head in (b"", b"\xff\xfb", b"\xff\xfb\xfc\0" * 60, b"\xff\xeb\0\0" * 60):
        assert mp3_length_s(head) is None
    assert id3_bytes(b"ID3\4\0\0\x7f\x7f\x7f\x7f") == 0
    vbri = b"\xff\xfb\x90\x64".ljust(36, b"\0") + b"VBRI" + bytes(10) + (100).to_bytes(4, "big")
    assert mp3_length_s(vbri) == pytest.approx(100 * 1152 / 44_100)
