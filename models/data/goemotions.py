"""GoEmotions: Reddit comments with one or more emotions (Demszky et al. 2020, arXiv:2005.00547), Ekman grouping."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from models.data.files import files_below, is_usable, set_folder
from models.data.sentences import CSV_MAX_BYTES, Sentence, Sentences, collect, one_hot
from models.errors import DataError
from models.labels import EMOTION_POLARITY, TO_EMOTION
from models.types import EMOTIONS, POLARITIES, FloatArray

UNSURE = "surprise"
"""The paper's "ambiguous" group (confusion, curiosity, realization, surprise): no polarity follows from it."""


def read(data: Path, split: str) -> Sentences:
    """Read `goemotions/ekman/SPLIT.tsv` (text, comma-separated label numbers, id) with its `labels.txt`.

    Where there is no `ekman/` the 28 labels of `original/` are read and grouped as the paper does. Several emotions
    share the row's weight equally. Polarity follows the paper's grouping of the labels: joy is positive, anger,
    disgust, fear and sadness negative, neutral neutral; surprise says nothing of it.

    Args:
        data: The data folder, a folder with such files (`labels.txt` there or in its parent), or one such file.
        split: A file's name without `.tsv` (`validation` is `dev`), or `all` for every `.tsv` that lies there. Not
            used when `data` is the file.

    Raises:
        DataError: A file is missing or too large, `labels.txt` cannot be read, a label unknown, or no row usable.
    """
    folder = data.parent if data.is_file() else set_folder(set_folder(data, "goemotions"), "ekman", "original")
    names = _label_names(folder)
    paths, skipped = _paths(data, folder, "dev" if split == "validation" else split)
    return collect(_rows(paths, names), skipped, paths[0] if len(paths) == 1 else folder)


def _rows(paths: Sequence[Path], names: Sequence[str]) -> Iterator[Sentence | None]:
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", errors="replace") as file:
                yield from (_sentence(line.rstrip("\n"), names) for line in file if line.strip())
        except OSError:
            yield None


def _paths(data: Path, folder: Path, split: str) -> tuple[list[Path], int]:
    if data.is_file():
        if data.stat().st_size > CSV_MAX_BYTES:
            raise DataError(f"{data} is larger than {CSV_MAX_BYTES} bytes: give a file that docs/data.md describes.")
        return [data], 0
    files = files_below(folder, frozenset({".tsv"}), CSV_MAX_BYTES)
    wanted = [path for path in files.paths if split in {"all", path.stem}]
    if not wanted:
        found = ", ".join(path.name for path in files.paths[:10]) or "none"
        raise DataError(
            f"cannot read {folder / split}.tsv (usable files of at most {CSV_MAX_BYTES} bytes: {found}): "
            "see docs/data.md."
        )
    return wanted, files.skipped


def _label_names(folder: Path) -> list[str]:
    for path in (folder / "labels.txt", folder.parent / "labels.txt"):
        if is_usable(path, path.parent.resolve(), 64 << 10):
            try:
                names = path.read_text(encoding="utf-8-sig", errors="replace").lower().split()
            except OSError as error:
                raise DataError(f"cannot read {path} ({error.strerror}): see docs/data.md.") from error
            if unknown := [name for name in names if TO_EMOTION.get(name) is None]:
                raise DataError(f"{path} names {unknown[:10]}, which models.labels maps to no emotion.")
            return names
    raise DataError(f"no labels.txt in {folder} or its parent: see docs/data.md.")


def _sentence(line: str, names: Sequence[str]) -> Sentence | None:
    cells = line.split("\t")
    if len(cells) < 2 or not cells[0].strip() or "\0" in line:
        return None
    try:
        numbers = {int(number) for number in cells[1].split(",")}
        labels = sorted({str(TO_EMOTION[names[number]]) for number in numbers})
    except (ValueError, IndexError):
        return None
    if min(numbers) < 0:
        return None
    emotions = [one_hot(label, EMOTIONS) for label in labels]
    poles = [one_hot(EMOTION_POLARITY[label], POLARITIES) for label in labels if label != UNSURE]
    return Sentence(cells[0], _mean(emotions, len(EMOTIONS)), _mean(poles, len(POLARITIES)))


def _mean(rows: list[FloatArray], width: int) -> FloatArray:
    return np.asarray(sum(rows, np.zeros(width, dtype=np.float32)) / max(1, len(rows)), dtype=np.float32)
