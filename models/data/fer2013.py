"""FER2013: 48x48 grey faces of seven emotions (Goodfellow et al. 2013, arXiv:1307.0414)."""

import lzma
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.data.faces import PICTURE_MAX_BYTES, SIDE_PX, Faces, Found, collect, decode, in_class_folders
from models.data.files import FILES_MAX, files_below, is_usable, set_folder
from models.data.sentences import read_csv
from models.errors import DataError
from models.labels import FER2013_LABELS, find_label

CROP_PX = 40
FRAMES = 8
"""Faces put together as one utterance."""
UNPACKED_MAX_BYTES = 512 << 20
"""Of the archive and of the CSV (300 MB as published)."""

SINGLE_FILES = ("fer2013.csv", "icml_face_data.csv", "fer2013.tar.xz")
CSV_COLUMNS = ("emotion", "pixels", "Usage")
CSV_LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""In the order of the original CSV's numbers."""

SPLIT_NAMES: Mapping[str, str] = {
    "training": "train",
    "validation": "publictest",
    "val": "publictest",
    "dev": "publictest",
    "test": "privatetest",
}
"""Other words for the challenge's three splits, as `split_name` writes them."""


def read(data: Path, split: str) -> Faces:
    """Read FER2013 in whichever form lies there; the first of these that is found counts.

    * a folder `fer2013/` with `SPLIT/CLASS/*` or `CLASS/*`, classes in any case or by a synonym of `models.labels`;
    * `fer2013.csv`, `icml_face_data.csv` or `fer2013.tar.xz` in that folder or beside it: the original CSV
      (`emotion,pixels,Usage`), or such folders, read without unpacking them;
    * every CSV of these columns below that folder, or else below `data`, whatever its name;
    * such folders in `data` itself.

    Links out of these folders are not followed.

    Args:
        data: The data folder, the folder of FER2013 or of one of its splits, or its archive or CSV.
        split: `train`, `public_test` (also `validation`), `private_test` (also `test`), any other name of a folder or
            `Usage`, or `all`.

    Raises:
        DataError: None of these is there, archive or CSV are damaged or too large, or the split holds no picture.
    """
    wanted = split_name(split)

    def chosen(name: str) -> bool:
        return wanted in {"all", split_name(name)}

    folder = set_folder(data, "fer2013")
    skipped = 0
    found: Iterable[Found] = ()
    if folder != data:
        skipped, found = _in_folders(folder, chosen)
    if not found:
        packed = [data] if data.is_file() else _packed(folder, data)
        if packed:
            found = _unpacked(packed, chosen)
        elif folder == data:
            skipped, found = _in_folders(folder, chosen)
    expected = f"no picture of split {split!r} in {data}: expected fer2013/{split or 'SPLIT'}/CLASS/*.jpg"
    return collect(found, FER2013_LABELS, skipped, f"{expected}, fer2013.csv or fer2013.tar.xz")


def split_name(name: str) -> str:
    """One spelling for `PublicTest`, `public_test` and `validation`."""
    plain = name.strip().lower().replace("_", "").replace("-", "")
    return SPLIT_NAMES.get(plain, plain)


def utterances(faces: Faces, rng: np.random.Generator) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    """Faces of one label put together as if they were an utterance's frames, half of them degraded, and the labels.

    Of every eight faces (8, 48, 48) four are shrunk to 6 to 10 pixels or half covered: a face too far away, or behind a
    hand. Which frames show something is for the network to find out.
    """
    found, labels = [], []
    for label in np.unique(faces.labels):
        rows = rng.permutation(np.flatnonzero(faces.labels == label))
        for group in np.split(rows, range(FRAMES, len(rows), FRAMES)):
            if len(group) == FRAMES:
                pictures = faces.pictures[group].copy()
                for row in range(FRAMES // 2):
                    pictures[row] = _degraded(pictures[row], rng)
                found.append(pictures)
                labels.append(label)
    return found, np.array(labels, dtype=np.int64)


def _degraded(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    if rng.random() < 0.5:
        x = torch.from_numpy(picture.astype(np.float32))[None, None]
        small = functional.interpolate(x, size=int(rng.integers(6, 11)), mode="area")
        return functional.interpolate(small, size=SIDE_PX, mode="bilinear")[0, 0].numpy().astype(np.uint8)
    covered, first = picture.copy(), int(rng.integers(0, SIDE_PX // 2))
    covered[first : first + SIDE_PX // 2] = rng.integers(0, 256)
    return covered


def augment(pictures: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Pictures (B, 48, 48) in; float32 (B, 40, 40) in [0, 255] out, as a detector and a webcam would change them.

    Mirror, rotation up to 15 degrees, zoom 0.85 to 1.2, shift up to 5 pixels (crop jitter of a detector), gamma, a
    tenth of them blurred to a face of 20 to 36 pixels, and an erased rectangle. How far each face is moved and darkened
    is a strength of its own, small for most: with every face changed in full the network could not even fit its
    training set.
    """
    size = len(pictures)
    strength = rng.random(size) ** 2
    x = torch.from_numpy(pictures.astype(np.float32))[:, None]
    for row in np.flatnonzero(rng.random(size) < 0.1):
        small = functional.interpolate(x[row : row + 1], size=int(rng.integers(20, 37)), mode="area")
        x[row] = functional.interpolate(small, size=SIDE_PX, mode="bilinear")[0]
    angle = np.deg2rad(rng.uniform(-15, 15, size)) * strength
    zoom = rng.uniform(0.85, 1.2, size) ** strength * CROP_PX / SIDE_PX
    mirror = np.where(rng.random(size) < 0.5, -1.0, 1.0)
    shift = rng.uniform(-5, 5, (2, size)) * (0.2 + 0.8 * strength) * 2 / SIDE_PX
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    theta = np.stack([mirror * cos, -sin, shift[0], mirror * sin, cos, shift[1]], axis=1).reshape(size, 2, 3)
    grid = functional.affine_grid(
        torch.from_numpy(theta.astype(np.float32)), [size, 1, CROP_PX, CROP_PX], align_corners=False
    )
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)[:, 0]
    gamma = torch.from_numpy((rng.uniform(0.6, 1.6, size) ** strength)[:, None, None].astype(np.float32))
    x = 255 * (x / 255).clamp(0, 1) ** gamma
    for row in np.flatnonzero(rng.random(size) < 0.25):
        height, width = rng.integers(6, 18, 2)
        top, left = rng.integers(0, CROP_PX - height), rng.integers(0, CROP_PX - width)
        x[row, top : top + height, left : left + width] = float(rng.uniform(0, 255))
    return x


def _in_folders(folder: Path, chosen: Callable[[str], bool]) -> tuple[int, list[Found]]:
    files = files_below(folder, frozenset(), PICTURE_MAX_BYTES)
    return files.skipped, in_class_folders(files.paths, folder, FER2013_LABELS, chosen)


def _packed(*folders: Path) -> Sequence[Path]:
    """The first file that has one of the known names, else the CSV files of the first folder that has such ones."""
    folders = tuple(dict.fromkeys(folders))
    for path in (folder / name for folder in folders for name in SINGLE_FILES):
        if is_usable(path, path.parent.resolve(), UNPACKED_MAX_BYTES):
            return [path]
    below = (files_below(folder, frozenset({".csv"}), UNPACKED_MAX_BYTES).paths for folder in folders)
    return next(filter(None, ([path for path in paths if _is_original(path)] for paths in below)), [])


def _is_original(path: Path) -> bool:
    try:
        return next(read_csv(path, CSV_COLUMNS, UNPACKED_MAX_BYTES), None) is not None
    except DataError:
        return False


def _unpacked(paths: Iterable[Path], chosen: Callable[[str], bool]) -> Iterator[Found]:
    for path in paths:
        yield from _csv(path, chosen) if path.suffix.lower() == ".csv" else _archive(path, chosen)


def _csv(path: Path, chosen: Callable[[str], bool]) -> Iterator[Found]:
    for row in read_csv(path, CSV_COLUMNS, UNPACKED_MAX_BYTES):
        usage = row.get("Usage")
        if usage is not None and not chosen(usage):
            continue
        try:
            place = range(len(CSV_LABELS)).index(int(row.get("emotion") or ""))  # refuses -1, which an index may be
            label = FER2013_LABELS.index(CSV_LABELS[place])
            pixels = bytes(map(int, (row.get("pixels") or "").split()))
            yield label, np.frombuffer(pixels, dtype=np.uint8).reshape(SIDE_PX, SIDE_PX)
        except ValueError:
            yield None, None


def _archive(path: Path, chosen: Callable[[str], bool]) -> Iterator[Found]:
    try:
        # No name in it is ever a path on disk: hostile ones only fail to be a class.
        with _Bounded(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
            for place, member in enumerate(tar):
                if place == FILES_MAX:
                    raise DataError(f"more than {FILES_MAX} files in {path}: is it FER2013?")
                parts = member.name.split("/")
                if not member.isfile() or len(parts) < 2 or not chosen(parts[-3] if len(parts) > 2 else ""):
                    continue
                label = find_label(parts[-2], FER2013_LABELS)
                content = tar.extractfile(member) if member.size <= PICTURE_MAX_BYTES else None
                yield label, None if label is None or content is None else decode(content.read())
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise DataError(f"cannot read {path} ({error}): fetch it again.") from error


class _Bounded(lzma.LZMAFile):
    """Unpacks to no more than `UNPACKED_MAX_BYTES`."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if self.tell() > UNPACKED_MAX_BYTES:
            raise DataError(f"the archive unpacks to more than {UNPACKED_MAX_BYTES} bytes: is it FER2013?")
        return content
