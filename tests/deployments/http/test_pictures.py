import io

import numpy as np
import pytest
from PIL import Image

from deployments.http.pictures import _bounded_png, picture_codec, read_picture
from pipelines.errors import MediaError
from pipelines.settings import MediaLimits, StreamSettings, VideoSettings
from tests.deployments.http.site import png
from tests.pipelines.hostile_pictures import jpeg_of_empty_scans, png_bomb

SETTINGS = StreamSettings(video=VideoSettings(side_max_px=64), limits=MediaLimits(picture_max_pixels=10_000))


def picture(kind: str, width: int = 40, height: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 40)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "codec"), [("PNG", "png"), ("JPEG", "mjpeg"), ("WEBP", "webp"), ("BMP", "bmp")])
def test_each_kind_of_picture_is_known_by_its_first_bytes_and_read(kind: str, codec: str) -> None:
    media = picture(kind)

    found = read_picture(media, SETTINGS)

    assert picture_codec(media[:16]) == codec
    assert found.shape == (20, 40, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - (200, 40, 40)).max() < 12


@pytest.mark.parametrize(
    ("size", "shape"), [((100, 50), (32, 64, 3)), ((50, 100), (64, 32, 3)), ((100, 1), (1, 64, 3))]
)
def test_a_large_picture_is_scaled_to_its_longer_side(size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    assert read_picture(png(*size), SETTINGS).shape == shape


@pytest.mark.parametrize(
    ("media", "said"),
    [
        (b"GIF89a" + bytes(20), "neither PNG, JPEG, WebP nor BMP"),
        (b"", "neither PNG"),
        (png(40, 40)[:60], "cut off|damaged"),
        (png(200, 200), "more than 10000 pixels"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused(media: bytes, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        read_picture(media, SETTINGS)


LARGE = StreamSettings(limits=MediaLimits(picture_max_pixels=3840 * 2160))


@pytest.mark.parametrize(
    ("media", "said"),
    [
        (jpeg_of_empty_scans(3840, 2160, 20_000), "scans"),
        (jpeg_of_empty_scans(3840, 2000, 1, frame_headers=1_000), "frame headers"),
        (png_bomb(64, 64, 64 << 20, in_text=False), "more than its pixels"),
    ],
)
def test_what_costs_far_more_than_its_bytes_is_refused_before_it_is_decoded(media: bytes, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        read_picture(media, LARGE)


def test_what_stands_beside_the_pixels_of_a_png_never_reaches_the_decoder() -> None:
    bomb = png_bomb(40, 40, 64 << 20, in_text=True)
    assert b"zTXt" not in _bounded_png(bomb, 40 * 40)
    assert read_picture(bomb, LARGE).shape == (40, 40, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_each_kind_of_png_is_read(mode: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((301, 7), 50).convert(mode).save(file, "PNG")
    assert read_picture(file.getvalue(), LARGE).shape == (7, 301, 3)
