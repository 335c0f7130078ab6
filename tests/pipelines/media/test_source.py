"""A party's file as packets from where it begins, and what is said of what is not heard."""

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.source import source_packets
from pipelines.types import Channels
from tests.pipelines import media_files as media
from tests.pipelines.media_files import BOTH, CUSTOMER, two_tracks


def read(file: Any, participants: Channels = (CUSTOMER,)) -> tuple[list[int], list[str]]:
    """When each packet is heard or seen, and what was warned of."""
    warnings: list[str] = []
    with ExitStack() as opened:
        timed = source_packets(file, participants, opened, warn=warnings.append)
        return [one.shown_ms for one in timed], warnings


def late(container: str, codec: str, late_s: float) -> bytes:
    return media.film(
        container,
        sound_codec=codec,
        samples=media.sound(3, 48_000),
        rate_hz=48_000,
        options={"output_ts_offset": str(late_s)},
    )


def test_a_whole_file_is_read_without_a_warning() -> None:
    for container, codec in (
        ("matroska", "libopus"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
        ("ogg", "libopus"),
        ("mp3", "libmp3lame"),
    ):
        whole = media.film(container, sound_codec=codec, samples=media.sound(3, 48_000), rate_hz=48_000)
        shown, warnings = read(io.BytesIO(whole))
        assert shown[0] == 0, container
        assert 2800 < shown[-1] < 3000, container
        assert warnings == [], container


@pytest.mark.parametrize(
    ("container", "codec", "late_s", "first_ms"),
    [
        ("matroska", "flac", 4.5, 4500),
        ("mp4", "aac", 4.5, 4500),
        ("matroska", "flac", 0.05, 0),
        ("matroska", "flac", 3599, 3_599_000),
        ("matroska", "flac", 3700, 0),  # no recorder's own zero: the time of day, say
        ("mpegts", "aac", 4.5, 0),  # a transport stream's zero is nothing
    ],
)
def test_a_party_that_joined_later_begins_later_where_the_file_says_so(
    container: str, codec: str, late_s: float, first_ms: int
) -> None:
    shown, _ = read(io.BytesIO(late(container, codec, late_s)))
    assert shown[0] == pytest.approx(first_ms, abs=25)
    assert shown[-1] - shown[0] == pytest.approx(2950, abs=80)


def test_bytes_behind_the_media_are_said() -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    whole = media.film("mp4", sound_codec="aac", samples=media.sound(3, 48_000), rate_hz=48_000, options=options)
    assert read(ByteStream([whole]))[1] == []
    (warning,) = read(ByteStream([whole, b"\0" * (1 << 20)]))[1]
    assert re.search(r"\d{5,7} bytes behind the last packet were not read", warning)


@pytest.mark.parametrize("container", ["flac", "matroska"])
def test_a_file_that_ends_early_is_said(container: str) -> None:
    whole = media.film(container, sound_codec="flac", samples=media.sound(6, 48_000), rate_hz=48_000)
    shown, warnings = read(io.BytesIO(whole[: len(whole) // 2]))
    assert 2000 < shown[-1] < 4000
    assert any("says to last 6.0 s" in warning and "the rest is missing" in warning for warning in warnings)


def test_a_track_on_which_nobody_is_said_to_be_is_named() -> None:
    shown, warnings = read(io.BytesIO(two_tracks(titles=("music", ""))), (None, CUSTOMER))
    assert len(shown) == len(set(shown))
    (warning,) = warnings
    assert "sound track 1: flac, 1 channel(s), 'music' is not heard" in warning


def test_both_tracks_are_read() -> None:
    shown, warnings = read(io.BytesIO(two_tracks()), BOTH)
    assert sorted(shown) == sorted([*set(shown)] * 2)
    assert warnings == []


def test_a_name_stands_in_front(tmp_path: Path) -> None:
    path = tmp_path / "torn.flac"
    whole = media.film("flac", sound_codec="flac", samples=media.sound(6, 48_000), rate_hz=48_000)
    path.write_bytes(whole[: len(whole) // 2])
    with path.open("rb") as file:
        assert all(warning.startswith(str(path)) for warning in read(file)[1])
    with pytest.raises(MediaError, match="the stream"):
        read(io.BytesIO(b"no media at all" * 100))


def test_files_without_packets_between_others_are_passed_over() -> None:
    """A recorder that reconnects sends headers alone; packets of the file before are still needed then."""
    sound = media.film("flac", sound_codec="flac", samples=media.sound(1, 16_000))
    header = sound[:42]
    for file in (io.BytesIO(sound + header * 20 + sound), ByteStream([sound, *[header] * 20, sound])):
        cuts = media.cut(file)
        assert media.hear(cuts).samples[CUSTOMER].size == pytest.approx(32_000, abs=200)


def test_a_track_that_sends_nothing_is_waited_for_once() -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    whole = media.film(
        "mp4",
        picture_codec="libx264",
        seconds=0.1,
        sound_codec="aac",
        samples=media.sound(40, 48_000),
        rate_hz=48_000,
        options={**options, "frag_duration": "1000000"},
    )
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for at in range(0, len(whole), 4096):
            taken += 1
            yield whole[at : at + 4096]

    with ExitStack() as opened:
        packets = source_packets(ByteStream(chunks()), (CUSTOMER,), opened)
        behind = [40_000 * taken * 4096 / len(whole) - packet.dts_ms for packet in packets]
    assert max(behind) < 20_000
    assert behind[len(behind) // 2] < 6000
