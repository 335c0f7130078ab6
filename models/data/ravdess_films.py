"""RAVDESS speech as films: voice and face of the same moment. Names, labels and splits as in `models.data.ravdess`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data import ravdess
from models.data.media import FILM_SUFFIXES, Pictures, read_pictures, read_sound
from models.errors import DataError
from models.labels import RAVDESS_LABELS
from models.types import FloatArray


@dataclass(frozen=True, slots=True)
class Films:
    """N films by their paths: decoded, all of RAVDESS would not fit into memory. Call `decode` on one after the other.

    `labels` int64 (N,) index `label_names`; `speakers` int64 (N,) are actors; `skipped` counts files left out by name
    or size. A film that `decode` gives None for is to be counted beside them.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    speakers: NDArray[np.int64]
    skipped: int


def read(data: Path, split: str) -> Films:
    """Find the films below `ravdess/`; of one performance the film with sound (`01-…`) wins over `02-…`.

    Args:
        data: The data folder, the folder of RAVDESS, or any folder of such films.
        split: As of `models.data.ravdess.read`.

    Raises:
        DataError: No such split, no such folder, or no film of these actors.
    """
    found, skipped = ravdess.performances(data, split, FILM_SUFFIXES)
    shown: dict[str, ravdess.Performance] = {}
    for one in found:
        if one.modality == ravdess.FULL or (one.modality == ravdess.SILENT and one.key not in shown):
            shown[one.key] = one
    if not shown:
        raise DataError(
            f"no RAVDESS film of split {split!r} in {data} ({skipped} files skipped): expected ravdess/Actor_NN/ with "
            "films (.mp4, .flv, .mkv, .mov, .avi) named like 01-01-06-01-02-01-12."
        )
    labels, actors = np.array([(one.label, one.actor) for one in shown.values()], dtype=np.int64).T
    return Films(tuple(one.path for one in shown.values()), labels, RAVDESS_LABELS, actors, skipped)


def decode(path: Path) -> tuple[Pictures, FloatArray | None] | None:
    """The film's pictures, RGB uint8 (T, H, W, 3), 5 per s, and its sound, mono float32 (N,) at 16 kHz or None.

    Returns:
        None when no picture can be decoded.
    """
    pictures = read_pictures(path)
    return None if pictures is None else (pictures, read_sound(path))
