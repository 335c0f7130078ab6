"""What makes a decoder go over a picture again and again is refused before it is decoded."""

import io
import struct

import pytest
from PIL import Image

from pipelines.errors import MediaError
from pipelines.media.passes import AV1_FRAMES_MAX, JPEG_FRAMES_MAX, JPEG_SCANS_MAX, check_passes
from tests.pipelines import media_files as media
from tests.pipelines.hostile_pictures import av1_packets, film_of, jpeg_of_empty_scans
from tests.pipelines.media_files import fragment

KIND = "video/x-matroska"


def progressive_jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((640, 480), 50).convert("RGB").save(file, "JPEG", progressive=True)
    return file.getvalue()


def test_a_jpeg_of_many_scans_is_refused_in_a_film() -> None:
    film = film_of("mjpeg", [jpeg_of_empty_scans(3840, 2160, 40_000)], 3840, 2160)
    with pytest.raises(MediaError, match="scans"):
        media.hear([fragment(film, KIND)])


def test_an_av1_packet_of_many_frames_is_refused() -> None:
    first, *others = av1_packets(1920, 1080, 4)
    film = film_of("libsvtav1", [first, others[-1] * 20_000], 1920, 1080)
    with pytest.raises(MediaError, match="frames"):
        media.hear([fragment(film, KIND)])


def test_ordinary_pictures_are_decoded() -> None:
    jpeg = progressive_jpeg()
    assert 5 < jpeg.count(b"\xff\xda") < JPEG_SCANS_MAX
    assert len(media.hear([fragment(film_of("mjpeg", [jpeg] * 5, 640, 480), KIND)]).frames) == 1
    packets = av1_packets(640, 480, 10)
    assert len(media.hear([fragment(film_of("libsvtav1", packets, 640, 480), KIND)]).frames) == 2


@pytest.mark.parametrize("damaged", [b"", b"\x32", b"\x32\xff", b"\x32" + b"\xff" * 20, b"\xff" * 100, b"\0" * 100])
def test_a_damaged_packet_is_left_to_the_decoder(damaged: bytes) -> None:
    check_passes("libdav1d", damaged)
    check_passes("mjpeg", damaged)


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC3, 0xF7])
def test_every_frame_header_that_is_decoded_is_counted_and_no_other(marker: int) -> None:
    header = struct.pack(">BBHBHHB", 0xFF, marker, 11, 8, 2000, 3840, 1) + b"\1\x11\0"
    check_passes("mjpeg", header * JPEG_FRAMES_MAX + b"\xff\xc4\0\x13" * 1_000 + b"\xff\xc2\0\0\0\0\0\0\0\x80" * 1_000)
    with pytest.raises(MediaError, match="frame headers"):
        check_passes("mjpeg", header * (JPEG_FRAMES_MAX + 1))


def test_the_bounds_are_the_highest_that_are_taken() -> None:
    check_passes("mjpeg", b"\xff\xda" * JPEG_SCANS_MAX)
    check_passes("libdav1d", b"\x32\x00" * AV1_FRAMES_MAX)
    with pytest.raises(MediaError):
        check_passes("mjpeg", b"\xff\xda" * (JPEG_SCANS_MAX + 1))
    with pytest.raises(MediaError):
        check_passes("libdav1d", b"\x32\x00" * (AV1_FRAMES_MAX + 1))
    check_passes("h264", b"\xff\xda\x32\x00" * 1_000)
