"""GoEmotions: Reddit comments with one or more emotions (Demszky et al. 2020, arXiv:2005.00547), Ekman grouping."""

from pathlib import Path

import numpy as np

from models.data import DataError
from models.data.labels import EMOTION_POLARITY, TO_EMOTION
from models.data.sentences import Sentences, collect, one_hot
from models.types import EMOTIONS, POLARITIES, FloatArray

UNSURE = "surprise"
"""The paper's "ambiguous" group (confusion, curiosity, realization, surprise): no polarity follows from it."""


def read(data: Path, split: str) -> Sentences:
    """Read `goemotions/ekman/SPLIT.tsv` (text, comma-separated label numbers, id) with its `labels.txt`.

    Several labels share the row's weight equally. Polarity follows the paper's grouping of the labels: joy is
    positive, anger, disgust, fear and sadness negative, neutral neutral; surprise says nothing of it.

    Args:
        data: The data folder.
        split: `train` or `dev`.

    Raises:
        DataError: A file is missing, a label unknown, or no row usable.
    """
    folder = data / "goemotions" / "ekman"
    path = folder / f"{split}.tsv"
    try:
        names = (folder / "labels.txt").read_text(encoding="utf-8").split()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {error.filename} ({error.strerror}): see the data README.") from error
    if unknown := [name for name in names if name not in TO_EMOTION]:
        raise DataError(f"{folder / 'labels.txt'} names {unknown}, which models.data.labels does not map.")
    rows, skipped = [], 0
    for line in lines:
        target = _target(line, names)
        if target is None:
            skipped += 1
            continue
        rows.append(target)
    return collect(rows, skipped, path)


def _target(line: str, names: list[str]) -> tuple[str, FloatArray, FloatArray] | None:
    cells = line.split("\t")
    if len(cells) < 2 or not cells[0].strip():
        return None
    try:
        labels = [TO_EMOTION[names[int(number)]] for number in cells[1].split(",")]
    except (ValueError, IndexError):
        return None
    emotions = [one_hot(label, EMOTIONS) for label in labels]
    poles = [one_hot(EMOTION_POLARITY[label], POLARITIES) for label in labels if label != UNSURE]
    return cells[0], _mean(emotions, len(EMOTIONS)), _mean(poles, len(POLARITIES))


def _mean(rows: list[FloatArray], width: int) -> FloatArray:
    return np.asarray(sum(rows, np.zeros(width, dtype=np.float32)) / max(1, len(rows)), dtype=np.float32)
