"""What a frame says of itself, read out of what encoders write."""

import io

import av
import pytest

from pipelines.media.container import open_media, packets
from pipelines.media.frame_header import FrameHeader, frame_header
from tests.pipelines import media_files as media


def headers(container: str, codec: str, rate_hz: int, channels: int = 1) -> list[FrameHeader | None]:
    whole = media.film(container, sound_codec=codec, samples=media.sound(1, rate_hz, channels), rate_hz=rate_hz)
    with open_media(io.BytesIO(whole), "it", 10_000) as opened:
        return [frame_header(packet) for packet in packets(opened, opened.streams.audio[0])]


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_aac_in_adts(rate_hz: int, channels: int) -> None:
    assert set(headers("adts", "aac", rate_hz, channels)) == {FrameHeader(rate_hz, channels, 1024)}


@pytest.mark.parametrize(
    ("rate_hz", "samples"), [(48_000, 1152), (44_100, 1152), (22_050, 576), (16_000, 576), (8000, 576)]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_mpeg_audio_of_each_version(rate_hz: int, samples: int, channels: int) -> None:
    assert set(headers("mp3", "libmp3lame", rate_hz, channels)) == {FrameHeader(rate_hz, channels, samples)}


@pytest.mark.parametrize(("container", "codec"), [("ipod", "aac"), ("flac", "flac"), ("ogg", "libopus")])
def test_what_has_no_such_header_says_nothing(container: str, codec: str) -> None:
    assert set(headers(container, codec, 48_000)) == {None}


@pytest.mark.parametrize("spoilt", [b"", b"\xff", b"\xff\xf1\xff\xff\xff\xff\xff", b"\xff\xfb\xff\xff", b"\0" * 20])
def test_a_spoilt_header_says_nothing(spoilt: bytes) -> None:
    for container, codec in (("adts", "aac"), ("mp3", "libmp3lame")):
        whole = media.film(container, sound_codec=codec, samples=media.sound(0.2, 48_000), rate_hz=48_000)
        with open_media(io.BytesIO(whole), "it", 10_000) as opened:
            packet = av.Packet(spoilt)
            packet.stream = opened.streams.audio[0]
            assert frame_header(packet) is None
