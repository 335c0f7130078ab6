"""RAVDESS as a table: 69 measurements of the voice and 56 of the face per clip, `file`, `emotion`, `actor`.

Derived from Livingstone & Russo 2018 (doi:10.1371/journal.pone.0196391), CC BY-NC-SA 4.0. Split by actor, as
`models.data.ravdess` does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from models.data.files import Files, files_below, set_folder
from models.data.ravdess import SPLIT_ACTORS
from models.data.sentences import CSV_MAX_BYTES, read_csv
from models.data.tables import Row, Table, collect
from models.errors import DataError
from models.labels import RAVDESS_LABELS
from models.types import Modality

LENGTHS: Mapping[Modality, int] = {Modality.AUDIO: 69, Modality.VIDEO: 56}
ABOUT = frozenset({"file", "emotion", "intensity", "actor", "gender"})
"""Columns that measure nothing."""

FACE = re.compile(r"(anger|disgust|fear|happiness|sadness|surprise|neutral|AU\d\d|mouth_openness)_(mean|std)")
MAGNITUDE_MAX = 1e30
"""A larger number is no measurement, and would not fit float32."""


def read(data: Path, split: str) -> Table:
    """Read every CSV of these columns below `ravdess_av/`, others skipped and counted.

    Columns may stand in any order. A measurement that is empty or no number is NaN. A row without known emotion, without
    actor or without any measurement is skipped and counted.

    Args:
        data: The data folder, the folder of such files, or one of them.
        split: `train` (actors 1-18), `validation` (19-21), `test` (22-24) or `all`.

    Raises:
        DataError: No such split or file, other columns in the only file, or no row is left.
    """
    if split not in SPLIT_ACTORS:
        raise DataError(f"the RAVDESS table has no split {split!r}: choose one of {', '.join(SPLIT_ACTORS)}.")
    if data.is_file():
        files = Files((data,), 0)
    else:
        files = files_below(set_folder(data, "ravdess_av"), frozenset({".csv"}), CSV_MAX_BYTES)
    wanted = (row for row in _rows(files.paths) if row is None or split == "all" or int(row[2]) in SPLIT_ACTORS[split])
    return collect(wanted, tuple(LENGTHS), files.skipped, data)


def _rows(paths: Sequence[Path]) -> Iterator[Row | None]:
    for path in paths:
        try:
            for fields in read_csv(path):
                yield _row(fields, path)
        except DataError:
            if len(paths) == 1:
                raise
            yield None


def _row(fields: Mapping[str, str | None], path: Path) -> Row | None:
    # Sorted by name, so that the order of columns in the file does not matter.
    columns = sorted(name for name in fields if name not in ABOUT)
    face = [name for name in columns if FACE.fullmatch(name)]
    voice = [name for name in columns if name not in face]
    if (len(voice), len(face)) != tuple(LENGTHS.values()):
        raise DataError(
            f"{path} has {len(voice)} columns of the voice and {len(face)} of the face, "
            f"not {' and '.join(map(str, LENGTHS.values()))}: is it the table that docs/data.md describes?"
        )
    emotion, actor = fields.get("emotion"), (fields.get("actor") or "").strip()
    measured = [np.array([_number(fields[name]) for name in names], dtype=np.float32) for names in (voice, face)]
    if emotion not in RAVDESS_LABELS or not re.fullmatch(r"\d{1,9}", actor) or np.isnan(np.concatenate(measured)).all():
        return None
    return measured, RAVDESS_LABELS.index(emotion), str(int(actor))


def _number(field: str | None) -> float:
    try:
        value = float(field or "nan")
    except ValueError:
        return float("nan")
    return value if abs(value) < MAGNITUDE_MAX else float("nan")
