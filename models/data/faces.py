"""What every set of labelled faces gives, and how an untrusted picture is decoded."""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import DataError
from models.labels import find_label

SIDE_PX = 48
PICTURE_MAX_BYTES = 1 << 20
PICTURE_MAX_PIXELS = 4096 * 4096
FACES_MAX = 200_000
"""Of all pictures together, which are held in memory: 460 MB."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What Pillow may open: formats that start no other program (EPS would)."""

Picture = NDArray[np.uint8]


Found = tuple[int | None, Picture | None]
"""Label and picture of one file or row; None where it is broken."""


@dataclass(frozen=True, slots=True)
class Faces:
    """Grey pictures uint8 (N, 48, 48); labels int64 (N,) index `label_names`; `skipped` counts broken files or rows."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    skipped: int


def collect(found: Iterable[Found], label_names: tuple[str, ...], skipped: int, expected: str) -> Faces:
    """Stack what was found; what is broken is skipped and counted.

    Args:
        found: In a fixed order.
        label_names: Of the set.
        skipped: Files already left out.
        expected: For the error: what should have been there.

    Raises:
        DataError: No picture, or more than `FACES_MAX`.
    """
    pictures: list[Picture] = []
    labels: list[int] = []
    for label, picture in found:
        if label is None or picture is None:
            skipped += 1
            continue
        if len(pictures) == FACES_MAX:
            raise DataError(f"more than {FACES_MAX} pictures: give a smaller split.")
        pictures.append(picture)
        labels.append(label)
    if not pictures:
        raise DataError(f"{expected} ({skipped} files or rows skipped)")
    return Faces(np.stack(pictures), np.array(labels, dtype=np.int64), label_names, skipped)


def in_class_folders(
    paths: Iterable[Path], root: Path, labels: tuple[str, ...], chosen: Callable[[str], bool]
) -> list[Found]:
    """The files of `CLASS/*` and `SPLIT/CLASS/*` below `root`, decoded; [] when no chosen one is in a known class.

    Args:
        paths: Below `root`; those in no folder are no part of the set.
        root: Its own name is the split of `CLASS/*`.
        labels: Of the set; a folder may be called by a synonym.
        chosen: Which splits are wanted.
    """
    named: list[tuple[int | None, Path]] = []
    for path in paths:
        *folders, label, _ = (root.resolve().name, *path.relative_to(root).parts)
        if folders and chosen(folders[-1]):
            named.append((find_label(label, labels), path))
    if all(label is None for label, _ in named):
        return []
    return [(label, None if label is None else _picture(path)) for label, path in named]


def _picture(path: Path) -> Picture | None:
    try:
        return decode(path.read_bytes())
    except OSError:  # no right to read it, or gone since it was found
        return None


def decode(content: bytes) -> Picture | None:
    """A picture of any size as grey (48, 48), or None when it is too large or cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=FORMATS) as picture:
                if picture.width * picture.height > PICTURE_MAX_PIXELS:
                    return None
                grey = picture.convert("L")
        return np.asarray(grey if grey.size == (SIDE_PX, SIDE_PX) else grey.resize((SIDE_PX, SIDE_PX)))
    except _BROKEN:
        return None


_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    SyntaxError,  # Pillow's word for a broken PNG
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
