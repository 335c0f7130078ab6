"""RAVDESS as a table: 69 measurements of the voice and 56 of the face per clip, `file`, `emotion`, `actor`.

Derived from Livingstone & Russo 2018 (doi:10.1371/journal.pone.0196391), CC BY-NC-SA 4.0. Split by actor, as
`models.data.ravdess` does.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.data import DataError
from models.data.labels import RAVDESS_LABELS
from models.data.ravdess import SPLIT_ACTORS
from models.data.sentences import read_csv
from models.data.tables import Row, Table, collect
from models.types import Modality

LENGTHS: Mapping[Modality, int] = {Modality.AUDIO: 69, Modality.VIDEO: 56}
ABOUT = frozenset({"file", "emotion", "intensity", "actor", "gender"})
"""Columns that measure nothing."""

FACE = re.compile(r"(anger|disgust|fear|happiness|sadness|surprise|neutral|AU\d\d|mouth_openness)_(mean|std)")
MAGNITUDE_MAX = 1e30
"""A larger number is no measurement, and would not fit float32."""


def read(data: Path, split: str) -> Table:
    """Read `ravdess_av/*.csv` under `data`, the files under `data` itself, or one file.

    Columns may stand in any order. A measurement that is empty or no number is NaN. A row without known emotion, without
    actor or without any measurement is skipped and counted.

    Args:
        data: The data folder.
        split: `train` (actors 1-18), `validation` (19-21), `test` (22-24) or `all`.

    Raises:
        DataError: No such split or file, other columns, or no row is left.
    """
    if split not in SPLIT_ACTORS:
        raise DataError(f"the RAVDESS table has no split {split!r}: choose one of {', '.join(SPLIT_ACTORS)}.")
    folder = data / "ravdess_av" if (data / "ravdess_av").is_dir() else data
    rows: list[Row] = []
    skipped = 0
    for path in [folder] if folder.is_file() else sorted(folder.glob("*.csv")):
        for fields in read_csv(path):
            row = _row(fields, path)
            if row is None:
                skipped += 1
            elif split == "all" or int(row[2]) in SPLIT_ACTORS[split]:
                rows.append(row)
    return collect(rows, tuple(LENGTHS), skipped, folder)


def _row(fields: Mapping[str, str | None], path: Path) -> Row | None:
    # Sorted by name, so that the order of columns in the file does not matter.
    columns = sorted(name for name in fields if name is not None and name not in ABOUT)
    face = [name for name in columns if FACE.fullmatch(name)]
    voice = [name for name in columns if name not in face]
    if (len(voice), len(face)) != tuple(LENGTHS.values()):
        raise DataError(
            f"{path} has {len(voice)} columns of the voice and {len(face)} of the face, "
            f"not {' and '.join(map(str, LENGTHS.values()))}: is it the table that the data README describes?"
        )
    emotion, actor = fields.get("emotion"), (fields.get("actor") or "").strip()
    measured = [[_number(fields[name]) for name in names] for names in (voice, face)]
    if emotion not in RAVDESS_LABELS or not re.fullmatch(r"\d{1,9}", actor) or np.isnan(np.concatenate(measured)).all():
        return None
    return measured, RAVDESS_LABELS.index(emotion), str(int(actor))


def _number(field: str | None) -> float:
    try:
        value = float(field or "nan")
    except ValueError:
        return float("nan")
    return value if abs(value) < MAGNITUDE_MAX else float("nan")
