"""What is passed over in the middle of a Matroska is counted and said, and nothing is said of what is whole."""

import io
import struct

import numpy as np
import pytest

from models.types import FloatArray
from pipelines.errors import MediaError
from pipelines.media.demux import Demuxer
from pipelines.settings import StreamSettings
from pipelines.types import Channels
from tests.pipelines import media_files as media
from tests.pipelines.media_files import AGENT, BOTH, CUSTOMER

DAMAGE = bytes(4096)


def placed(whole: bytes, *, piped: bool) -> tuple[FloatArray, list[str]]:
    """The customer's sound, each block where it says to be, and what was said."""
    warnings: list[str] = []
    cuts = media.cut(iter([whole]) if piped else io.BytesIO(whole), warn=warnings.append)
    demuxer = Demuxer(StreamSettings())
    blocks = [block for part in [*map(demuxer.feed, cuts), demuxer.finish()] for block in part.blocks]
    heard = np.zeros(max(block.start_sample + block.samples.size for block in blocks), np.float32)
    for block in blocks:
        heard[block.start_sample : block.start_sample + block.samples.size] = block.samples
    return heard, warnings


def said(whole: bytes, *, piped: bool = False, who: Channels = (CUSTOMER,)) -> list[str]:
    warnings: list[str] = []
    media.cut(iter([whole]) if piped else io.BytesIO(whole), who, warn=warnings.append)
    return warnings


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize(("container", "codec"), [("webm", "libopus"), ("matroska", "flac"), ("matroska", "pcm_s16le")])
def test_what_is_passed_over_is_said_with_its_bytes_and_ms(container: str, codec: str, piped: bool) -> None:  # noqa: FBT001
    whole = media.film(container, sound_codec=codec, samples=media.sound(12, 48_000), rate_hz=48_000)
    assert said(whole, piped=piped) == []
    half = len(whole) // 2
    warnings = said(whole[:half] + DAMAGE + whole[half + len(DAMAGE) :], piped=piped)
    assert len(warnings) == 1, warnings
    words = warnings[0].split()
    passed_bytes, lost_ms = int(words[words.index("bytes") - 1]), int(words[words.index("ms") - 1])
    assert len(DAMAGE) <= passed_bytes < len(whole) // 2
    assert 10 < lost_ms <= 6000


def test_of_two_tracks_the_one_that_lost_most_is_said() -> None:
    whole = media.two_tracks(seconds=12)
    assert said(whole, who=BOTH) == []
    half = len(whole) // 2
    warnings = said(whole[:half] + DAMAGE + whole[half + len(DAMAGE) :], who=BOTH)
    assert any("bytes were passed over" in one for one in warnings), warnings


def test_a_track_that_nobody_reads_is_no_damage() -> None:
    whole = media.two_tracks()
    assert not any("passed over" in one for one in said(whole, who=(None, CUSTOMER)))


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("damage", [DAMAGE, np.random.default_rng(3).bytes(4096)], ids=["zeros", "noise"])
@pytest.mark.parametrize(
    ("container", "codec"),
    [("mpegts", "aac"), ("mpegts", "libmp3lame"), ("mpegts", "ac3"), ("mpegts", "eac3"), ("mpegts", "libopus")],
)
def test_a_packet_that_cannot_be_written_is_left_out_and_the_rest_keeps_its_time(
    container: str,
    codec: str,
    damage: bytes,
    piped: bool,  # noqa: FBT001
) -> None:
    whole = media.film(container, sound_codec=codec, samples=media.sound(12, 48_000), rate_hz=48_000)
    half = len(whole) // 2
    before, nothing = placed(whole, piped=piped)
    heard, _ = placed(whole[:half] + damage + whole[half + len(damage) :], piped=piped)
    assert nothing == []
    assert abs(heard.size - before.size) < 1600
    # A time in a container of ms is a few samples off.
    behind, around = heard[9 * 16_000 : 11 * 16_000], 32
    alike = (before[9 * 16_000 + by :][: behind.size] for by in range(-around, around + 1))
    assert max(media.sounds_like(behind, one) for one in alike) > 0.9


@pytest.mark.parametrize("zeros", [True, False])
def test_wherever_a_transport_stream_is_damaged_the_rest_is_heard_and_what_cannot_be_written_is_said(
    zeros: bool,  # noqa: FBT001
) -> None:
    whole = media.film("mpegts", sound_codec="aac", samples=media.sound(12, 48_000), rate_hz=48_000)
    before, _ = placed(whole, piped=False)
    damage = DAMAGE if zeros else np.random.default_rng(0).bytes(len(DAMAGE))
    told = 0
    for twentieth in range(2, 17):
        at = len(whole) * twentieth // 20
        heard, warnings = placed(whole[:at] + damage + whole[at + len(damage) :], piped=False)
        assert abs(heard.size - before.size) < 1600
        told += any("cannot be written again" in one for one in warnings)
    assert told


def test_a_stream_none_of_whose_packets_can_be_written_is_refused() -> None:
    whole = media.film("mpegts", sound_codec="aac", samples=media.sound(2, 48_000), rate_hz=48_000)
    broken = whole.replace(b"\xff\xf1", b"\x00\x00")  # the words with which ADTS headers begin
    assert broken != whole
    with pytest.raises(MediaError):
        placed(broken, piped=False)


def test_room_between_clusters_is_no_damage() -> None:
    whole = media.film(
        "webm", sound_codec="libopus", samples=media.sound(12, 48_000), rate_hz=48_000, options={"live": "1"}
    )
    first, *clusters = whole.split(b"\x1f\x43\xb6\x75")
    assert len(clusters) > 1
    void = b"\xec" + (3000 | 1 << 14).to_bytes(2, "big") + bytes(3000)  # RFC 8794 §11.3.2
    assert said((void + b"\x1f\x43\xb6\x75").join([first, *clusters])) == []


def test_a_damaged_packet_of_one_track_costs_the_other_nothing() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def track(channels: int) -> bytes:
        form = struct.pack("<HHIIHHH", 7, channels, 8000, 8000 * channels, channels, 8, 0)  # mu-law
        about = struct.pack("<IHH8I4h", 0, 0, 0, 0, 1, 8000, 0, 100, 4000, 0, channels, *bytes(4))
        head = chunk(b"strh", b"auds" + bytes(4) + about) + chunk(b"strf", form)
        return chunk(b"LIST", b"strl" + head)

    sounds = b"".join(
        chunk(b"00wb", bytes(800)) + chunk(b"01wb", bytes(1 if number == 50 else 1600)) for number in range(100)
    )
    head = chunk(b"avih", struct.pack("<14I", 100_000, 0, 0, 256, 100, 0, 2, *bytes(7)))
    lists = chunk(b"LIST", b"hdrl" + head + track(1) + track(2)) + chunk(b"LIST", b"movi" + sounds)
    warnings: list[str] = []
    cuts = media.cut(io.BytesIO(chunk(b"RIFF", b"AVI " + lists)), BOTH, warn=warnings.append)
    demuxer = Demuxer(StreamSettings())
    blocks = [block for part in [*map(demuxer.feed, cuts), demuxer.finish()] for block in part.blocks]
    heard = {who: sum(block.samples.size for block in blocks if block.participant is who) for who in BOTH}
    assert [one.split()[0] for one in warnings] == ["1"]
    assert heard[AGENT] >= 158_000  # of 10 s
    assert 155_000 <= heard[CUSTOMER] < 160_000
