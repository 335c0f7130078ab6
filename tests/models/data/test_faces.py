import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data import faces
from models.data.faces import collect, decode, in_class_folders
from models.errors import DataError

LABELS = ("happy", "sad")
GREY = np.zeros((48, 48), dtype=np.uint8)


def encoded(size: tuple[int, int], kind: str = "PNG", mode: str = "L") -> bytes:
    out = BytesIO()
    Image.new(mode, size, 100 if mode == "L" else "gray").save(out, kind)
    return out.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, a thousandth of that in bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "kind", "mode"), [((48, 48), "PNG", "L"), ((200, 90), "JPEG", "RGB"), ((3, 3), "GIF", "P")]
)
def test_any_picture_becomes_48_grey_pixels(size: tuple[int, int], kind: str, mode: str) -> None:
    picture = decode(encoded(size, kind, mode))

    assert picture is not None
    assert picture.shape == (48, 48)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8 no picture",
        encoded((48, 48), "JPEG")[:-300],
        encoded((48, 48), "PNG")[:40],
        encoded((48, 48), "EPS"),
        encoded((48, 48), "PCX"),
    ],
)
def test_broken_pictures_are_none(content: bytes) -> None:
    assert decode(content) is None


@pytest.mark.parametrize("side", [4_104, 12_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side: int) -> None:
    content = bomb(side)

    assert len(content) < faces.PICTURE_MAX_BYTES
    assert decode(content) is None


def test_what_is_broken_is_skipped_and_counted() -> None:
    found = collect([(1, GREY), (None, GREY), (0, None), (0, GREY)], LABELS, 2, "nothing")

    assert found.labels.tolist() == [1, 0]
    assert (found.pictures.shape, found.skipped, found.label_names) == ((2, 48, 48), 4, LABELS)


def test_a_picture_that_is_gone_is_none(tmp_path: Path) -> None:
    (tmp_path / "train" / "sad").mkdir(parents=True)
    there, gone = (tmp_path / "train" / "sad" / name for name in ("there.png", "gone.png"))
    there.write_bytes(encoded((48, 48)))

    found = in_class_folders([gone, there], tmp_path, LABELS, lambda _: True)

    assert [(label, picture is None) for label, picture in found] == [(1, True), (1, False)]


def test_nothing_and_too_much_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"expected faces \(1 files or rows skipped\)"):
        collect([(None, None)], LABELS, 0, "expected faces")
    monkeypatch.setattr(faces, "FACES_MAX", 1)
    with pytest.raises(DataError, match="more than 1 pictures"):
        collect([(0, GREY), (0, GREY)], LABELS, 0, "expected faces")
