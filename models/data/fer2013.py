"""FER2013: 48x48 grey faces of seven emotions (Goodfellow et al. 2013, arXiv:1307.0414)."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from models.data import DataError
from models.data.labels import FER2013_LABELS

SIDE_PX = 48
CROP_PX = 40
PICTURE_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Faces:
    """Pictures uint8 (N, 48, 48), labels int64 (N,) indexing `FER2013_LABELS`, and how many files were skipped."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    skipped: int


def read(data: Path, split: str) -> Faces:
    """Read `fer2013/SPLIT/CLASS/*` under `data`, or the same out of `fer2013.tar.xz` without unpacking it.

    Args:
        data: The data folder, or the folder or archive of FER2013 itself.
        split: `train`, `public_test`, any other folder's name, or `all`.

    Raises:
        DataError: Neither is there, or the split holds no picture.
    """
    pictures: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    skipped = 0
    for name, content in _files(data):
        parts = name.split("/")
        if len(parts) < 3 or split not in {parts[-3], "all"}:
            continue
        picture = _decode(content) if parts[-2] in FER2013_LABELS else None
        if picture is None:
            skipped += 1
            continue
        pictures.append(picture)
        labels.append(FER2013_LABELS.index(parts[-2]))
    if not pictures:
        raise DataError(
            f"no picture of split {split!r} in {data}: expected fer2013/{split}/CLASS/*.jpg or its .tar.xz."
        )
    return Faces(np.stack(pictures), np.array(labels, dtype=np.int64), skipped)


def augment(pictures: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Pictures (B, 48, 48) in; float32 (B, 40, 40) in [0, 255] out, as a detector and a webcam would change them.

    Mirror, rotation up to 15 degrees, zoom 0.85 to 1.2, shift up to 5 pixels (crop jitter of a detector), gamma, a
    fifth of them blurred to a face of 20 to 36 pixels, and an erased rectangle.
    """
    size = len(pictures)
    x = torch.from_numpy(pictures.astype(np.float32))[:, None]
    for row in np.flatnonzero(rng.random(size) < 0.2):
        small = functional.interpolate(x[row : row + 1], size=int(rng.integers(20, 37)), mode="area")
        x[row] = functional.interpolate(small, size=SIDE_PX, mode="bilinear")[0]
    angle = np.deg2rad(rng.uniform(-15, 15, size))
    zoom = rng.uniform(0.85, 1.2, size) * CROP_PX / SIDE_PX
    mirror = np.where(rng.random(size) < 0.5, -1.0, 1.0)
    shift = rng.uniform(-5, 5, (2, size)) * 2 / SIDE_PX
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    theta = np.stack([mirror * cos, -sin, shift[0], mirror * sin, cos, shift[1]], axis=1).reshape(size, 2, 3)
    grid = functional.affine_grid(
        torch.from_numpy(theta.astype(np.float32)), [size, 1, CROP_PX, CROP_PX], align_corners=False
    )
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)[:, 0]
    gamma = torch.from_numpy(rng.uniform(0.6, 1.6, (size, 1, 1)).astype(np.float32))
    x = 255 * (x / 255).clamp(0, 1) ** gamma
    for row in np.flatnonzero(rng.random(size) < 0.4):
        height, width = rng.integers(6, 18, 2)
        top, left = rng.integers(0, CROP_PX - height), rng.integers(0, CROP_PX - width)
        x[row, top : top + height, left : left + width] = float(rng.uniform(0, 255))
    return x


def _files(data: Path) -> Iterator[tuple[str, bytes]]:
    """Every file as (path with forward slashes, content), in a fixed order."""
    archive = data if data.suffix == ".xz" else data / "fer2013.tar.xz"
    folder = data / "fer2013" if (data / "fer2013").is_dir() else data
    if archive.is_file() and folder == data:
        with tarfile.open(archive, "r|xz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() and member.size <= PICTURE_MAX_BYTES else None
                if content is not None:
                    yield member.name, content.read()
        return
    if not folder.is_dir():
        raise DataError(f"no FER2013 in {data}: expected a folder fer2013/ or the archive fer2013.tar.xz.")
    for path in sorted(folder.glob("*/*/*")):
        if path.is_file() and path.stat().st_size <= PICTURE_MAX_BYTES:
            yield path.relative_to(folder.parent).as_posix(), path.read_bytes()


def _decode(content: bytes) -> NDArray[np.uint8] | None:
    try:
        with Image.open(BytesIO(content)) as picture:
            grey = picture.convert("L")
            return np.asarray(grey if grey.size == (SIDE_PX, SIDE_PX) else grey.resize((SIDE_PX, SIDE_PX)))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
