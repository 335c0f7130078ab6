"""What makes a decoder go over a picture again and again is refused before it is decoded."""

import io
import struct

import pytest
from PIL import Image

from pipelines.errors import MediaError
from pipelines.media.passes import AV1_FRAMES_MAX, JPEG_FRAMES_MAX, JPEG_SCANS_MAX, SLICES_MAX, check_passes
from tests.pipelines import media_files as media
from tests.pipelines.hostile_pictures import av1_packets, film_of, h264_packets, jpeg_of_empty_scans
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
    for decoder in ("h264", "hevc", "vc1", "mpeg2video"):
        check_passes(decoder, damaged, damaged)


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


def test_an_h264_picture_whose_slice_is_repeated_is_refused() -> None:
    first, second = h264_packets(640, 480, 2)
    again = second[second.rindex(b"\0\0\1") :]
    film = film_of(
        "libx264", [first, second + again * (SLICES_MAX + 1)], 640, 480
    )  # Matroska has lengths for start codes
    with pytest.raises(MediaError, match="slices"):
        media.hear([fragment(film, KIND)])


def test_ordinary_slices_are_decoded() -> None:
    packets = h264_packets(1280, 720, 10, slices=4)
    assert packets[0].count(b"\0\0\1") >= 4
    assert len(media.hear([fragment(film_of("libx264", packets, 1280, 720), KIND)]).frames) == 2


AVCC, HVCC = b"\1\x64\0\x28", b"\1" + bytes(20)  # up to the byte of which two bits tell how long lengths are


def by_length(nal: bytes, length_bytes: int) -> bytes:
    return len(nal).to_bytes(length_bytes) + nal


@pytest.mark.parametrize(
    ("decoder", "slice_nal", "other_nal", "record"),
    [
        *(("h264", bytes([kind]) + b"\x80", b"\x06\x80", AVCC) for kind in (0x01, 0x22, 0x65)),
        *(("hevc", bytes([kind << 1]) + b"\1\x80", b"\x4e\1\x80", HVCC) for kind in (0, 1, 9, 19, 21)),
        ("vc1", b"\x0b\x80", b"\x0d\x80", b""),
        ("mpeg1video", b"\1\x80", b"\xb5\x80", b""),
        ("mpeg2video", b"\xaf\x80", b"\xb2\x80", b""),
    ],
)
def test_slices_are_counted_however_they_are_delimited(
    decoder: str, slice_nal: bytes, other_nal: bytes, record: bytes
) -> None:
    ways = [(b"\0\0\1" + slice_nal, b"\0\0\0\1" + other_nal, b"")]
    ways += [
        (by_length(slice_nal, size), by_length(other_nal, size), record + bytes([0xFC | size - 1, 0xE1, 0]))
        for size in ((1, 2, 3, 4) if record else ())
    ]
    for one, other, extradata in ways:
        check_passes(decoder, (one + other) * SLICES_MAX, extradata)
        with pytest.raises(MediaError, match="slices"):
            check_passes(decoder, one * (SLICES_MAX + 1) + other, extradata)


def test_a_packet_may_not_change_how_long_the_lengths_are() -> None:
    check_passes("h264", AVCC + b"\xff\xe1\0", AVCC + b"\xff\xe1\0")
    with pytest.raises(MediaError, match="NAL units"):
        check_passes("h264", AVCC + b"\xfc\xe1\0", AVCC + b"\xff\xe1\0")
