"""CMU-MOSI as a table: 100 numbers of the words, 73 of the voice and 100 of the face per utterance of a film review.

The opinions are of Zadeh et al. 2016 (arXiv:1606.06259), the numbers of Poria et al. 2017 (doi:10.18653/v1/P17-1081):
a CNN's of the words, openSMILE's of the voice, a 3D-CNN's of the face. The two CNNs were trained with the labels of
the training file: its rows look far easier to tell apart than new ones will.
"""

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from models.data import DataError
from models.data.sentences import read_csv
from models.data.tables import Row, Table, collect
from models.types import Modality

LABELS = ("negative", "positive")
LENGTHS: Mapping[Modality, int] = {Modality.AUDIO: 73, Modality.VIDEO: 100, Modality.TEXT: 100}
"""Numbers per modality; the label follows them."""

VALIDATION_SHARE = 5
"""One video of the training file in so many, by the hash of its id, is validation: the set has no such split."""

MAGNITUDE_MAX = 1e30
"""A larger number is no measurement, and would not fit float32."""


def read(data: Path, split: str) -> Table:
    """Read `mosi/{audio,video,text}/*_STEM0.csv` and `mosi/utterances_STEM.csv` under `data`, or under `mosi` itself.

    Rows with other than numbers, or whose label is not the same in all files, are skipped and counted.

    Args:
        data: The data folder.
        split: `train` or `validation` (the training file, divided by video), `all` (every file there), or the stem of
            a file, such as `test`.

    Raises:
        DataError: A file is missing, the files of one stem differ in length, or no row is left.
    """
    folder = data / "mosi" if (data / "mosi").is_dir() else data
    carved = split in {"train", "validation"}
    stems = _stems(folder) if split == "all" else ["train" if carved else split]
    rows: list[Row] = []
    skipped = 0
    for stem in stems:
        for row in _rows(folder, stem):
            if row is None:
                skipped += 1
            elif not carved or split_of(row[2]) == split:
                rows.append(row)
    return collect(rows, tuple(LENGTHS), skipped, folder)


def split_of(video: str) -> str:
    """`validation` for a fifth of the videos, by hash, else `train`."""
    return "train" if hashlib.sha256(video.encode()).digest()[0] % VALIDATION_SHARE else "validation"


def _stems(folder: Path) -> list[str]:
    found = sorted(
        match[1] for path in (folder / "text").glob("*0.csv") if (match := re.fullmatch(r".*_([^_]+)0", path.stem))
    )
    if not found:
        raise DataError(f"no text/*_SPLIT0.csv in {folder}: give the folder that the data README describes.")
    return found


def _rows(folder: Path, stem: str) -> Iterator[Row | None]:
    """Row by row of one stem; None for a broken one."""
    utterances = list(read_csv(folder / f"utterances_{stem}.csv"))
    tables = {modality: _numbers(folder / modality, stem, length) for modality, length in LENGTHS.items()}
    lengths = {f"utterances_{stem}.csv": len(utterances)} | {f"{m}/": len(rows) for m, rows in tables.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"the MOSI files of {stem!r} differ in length ({told}): rows would not belong together.")
    for place, utterance in enumerate(utterances):
        parts = [table[place] for table in tables.values()]
        label, video = utterance.get("positive"), utterance.get("video_id")
        agreed = (
            {None if part is None else part[-1] for part in parts} == {float(label)} if label in {"0", "1"} else False
        )
        if agreed and video and utterance.get("row") == str(place):
            yield [part[:-1] for part in parts if part is not None], int(label or 0), video
        else:
            yield None


def _numbers(folder: Path, stem: str, length: int) -> list[list[float] | None]:
    """Every row's numbers, the label last; None where they are not `length` + 1 numbers."""
    paths = sorted(folder.glob(f"*_{stem}0.csv"))
    if len(paths) != 1:
        raise DataError(f"{len(paths)} files *_{stem}0.csv in {folder}, one is wanted: fetch that split of MOSI.")
    try:
        with paths[0].open(encoding="utf-8", errors="replace", newline="") as file:
            return [_row(fields, length + 1) for fields in csv.reader(file) if fields]
    except csv.Error as error:
        raise DataError(f"{paths[0]} is not a CSV file ({error}).") from error


def _row(fields: list[str], length: int) -> list[float] | None:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return None
    return values if len(values) == length and bool((np.abs(values) < MAGNITUDE_MAX).all()) else None
