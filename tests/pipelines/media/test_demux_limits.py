"""What asks for more than the limits allow is refused by name."""

import io
from dataclasses import replace
from typing import Any

import av
import pytest

from pipelines.errors import MediaError
from pipelines.media.demux import Demuxer
from pipelines.settings import MediaLimits, StreamSettings
from tests.fuzz import bombs
from tests.pipelines import media_files as media
from tests.pipelines.media_files import fragment


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(picture_max_pixels=96 * 64 - 1), "96x64"),
        (MediaLimits(pixels_per_fragment_max=20 * 96 * 64), "pixels_per_fragment_max"),
        (MediaLimits(channels_max=1), "2 channels"),
        (MediaLimits(sample_rate_max_hz=44_100), "48000 Hz"),
        (MediaLimits(fragment_max_s=0.5), "0.5 s of sound"),
        (MediaLimits(streams_max=1), "2 streams"),
        (MediaLimits(fragment_max_bytes=2000), "at most 2000"),
        (MediaLimits(packets_max=20), "more than 20 packets"),
        (MediaLimits(samples_per_fragment_max=9000), "more than 9000 samples"),
        (MediaLimits(decode_max_s=1e-6), "of processor time"),
    ],
)
def test_limits_are_named(limits: MediaLimits, message: str) -> None:
    whole = media.film(
        "mp4", picture_codec="libx264", sound_codec="aac", samples=media.sound(2, 48_000, 2), rate_hz=48_000, seconds=2
    )
    cuts = media.cut(io.BytesIO(whole))
    with pytest.raises(MediaError, match=message):
        Demuxer(StreamSettings(limits=limits)).feed(cuts[0])


def test_pictures_that_grow_on_the_way_are_counted_as_they_come() -> None:
    small = media.film("mpegts", picture_codec="libx264", seconds=0.4)
    large = media.film("mpegts", picture_codec="libx264", seconds=0.4, size=(640, 360))
    grown = fragment(small + large, "video/mp2t")
    limits = MediaLimits(pixels_per_fragment_max=640 * 360)
    whole, bounded = (
        media.hear([grown], settings=settings) for settings in (StreamSettings(), StreamSettings(limits=limits))
    )
    assert [frame.pixels.shape[1] for frame in whole.frames] == [480, 480]
    assert bounded.damaged > whole.damaged == 0


def test_sound_has_its_own_time_to_be_decoded_in() -> None:
    whole = media.film("flac", sound_codec="flac", samples=media.sound(1, 48_000), rate_hz=48_000)
    with pytest.raises(MediaError, match="of processor time"):
        Demuxer(StreamSettings(limits=MediaLimits(decode_max_s=1e-6))).feed(fragment(whole, "audio/flac"))


def test_pictures_may_be_large_or_deep_but_not_both() -> None:
    deep = fragment(bombs.pictures("ffv1", "yuv444p16le", (96, 64), 3, "matroska"), "video/x-matroska")
    assert media.hear([deep]).frames
    limits = MediaLimits(picture_max_pixels=96 * 64)
    with pytest.raises(MediaError, match="yuv444p16le, 36864 bytes each"):
        Demuxer(StreamSettings(limits=limits)).feed(deep)


def test_times_that_are_hours_apart_are_no_fragment() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream: Any = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for n in (0, 1, 25 * 7200):
            picture = av.VideoFrame.from_ndarray(media.picture(n), format="rgb24")
            picture.pts = n
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    demuxer = Demuxer(StreamSettings())
    with pytest.raises(MediaError, match=r"7\.2e\+03 s apart"):
        demuxer.feed(fragment(file.getvalue(), "video/x-matroska"))
    after = media.cut(io.BytesIO(media.film("matroska", picture_codec="mjpeg", seconds=1)))[0]
    shown = demuxer.feed(replace(after, seq=1)).pictures
    assert [picture.time_ms for picture in shown] == list(range(0, 520, 40))


def test_a_delay_of_years_at_the_front_is_refused() -> None:
    cut = media.cut(io.BytesIO(media.film("flac", sound_codec="flac", samples=media.sound(1, 16_000))))[0]
    told = b"0/16000"
    assert cut.media.count(told) == 1
    with pytest.raises(MediaError, match="s apart"):
        Demuxer(StreamSettings()).feed(replace(cut, media=cut.media.replace(told, b"-9999/1")))


@pytest.mark.parametrize("duration_ms", [61_000, 40_000_000, 1 << 62, (1 << 64) - 1])
def test_a_damaged_packet_that_lasts_for_ever_is_refused(duration_ms: int) -> None:
    with pytest.raises(MediaError, match="a damaged packet that says to last"):
        Demuxer(StreamSettings()).feed(fragment(bombs.damaged_for_ever(duration_ms), "audio/x-matroska"))


def test_sound_that_always_changes_its_rate_is_refused() -> None:
    with pytest.raises(MediaError, match="more than 100 times"):
        Demuxer(StreamSettings()).feed(fragment(bombs.alternating_mp3()[:100_000], "audio/mpeg"))


def test_a_header_that_unpacks_to_a_gigabyte_is_not_unpacked() -> None:
    with pytest.raises(MediaError, match="Cannot allocate memory"):
        Demuxer(StreamSettings()).feed(fragment(bombs.packed_mp4_header(900 << 20), "video/quicktime"))


@pytest.mark.parametrize("content_type", ["audio/L16;rate=48000;channels=2", "audio/PCMU;rate=48000;channels=2"])
@pytest.mark.parametrize(
    "limits", [MediaLimits(channels_max=1), MediaLimits(sample_rate_max_hz=8000), MediaLimits(fragment_max_s=0.1)]
)
def test_limits_hold_for_raw_sound(content_type: str, limits: MediaLimits) -> None:
    with pytest.raises(MediaError):
        Demuxer(StreamSettings(limits=limits)).feed(fragment(bytes(48_000), content_type))
