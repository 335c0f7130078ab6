"""What every published table of measurements gives: rows of numbers per modality instead of sound and pictures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.sentences import usable
from models.errors import DataError
from models.types import FloatArray, Modality


@dataclass(frozen=True, slots=True)
class Table:
    """N utterances.

    Attributes:
        measured: Per modality (N, D); NaN where a measurement is missing.
        labels: int64 (N,).
        groups: (N,), who or what must not stand on both sides of a split: the video or the actor.
        skipped: Rows that could not be read.
    """

    measured: Mapping[Modality, FloatArray]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    skipped: int

    def __len__(self) -> int:
        """How many utterances."""
        return len(self.labels)

    def take(self, rows: NDArray[np.bool_]) -> "Table":
        """The rows (N,) that are True."""
        measured = {modality: values[rows] for modality, values in self.measured.items()}
        return Table(measured, self.labels[rows], self.groups[rows], self.skipped)


Row = tuple[Sequence[FloatArray], int, str]
"""One utterance: the measurements of every modality, in the order of the set; label; group."""


def collect(rows: Iterable[Row | None], modalities: Sequence[Modality], skipped: int, source: Path) -> Table:
    """Stack the rows of all files of a set; None, a broken row or file, is skipped and counted.

    Raises:
        DataError: There is none, or more than `ROWS_MAX`, broken ones included.
    """
    found, broken = usable(rows, source)
    skipped += broken
    if not found:
        raise DataError(
            f"no usable row of this split in {source} ({skipped} skipped): is it laid out as docs/data.md says?"
        )
    measured, labels, groups = zip(*found, strict=True)
    return Table(
        {
            modality: np.array([row[place] for row in measured], dtype=np.float32)
            for place, modality in enumerate(modalities)
        },
        np.array(labels, dtype=np.int64),
        np.array(groups),
        skipped,
    )
