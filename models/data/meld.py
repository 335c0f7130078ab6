"""MELD: utterances of the series Friends with emotion and sentiment (Poria et al. 2019, arXiv:1810.02508)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from models.data.files import files_below, set_folder
from models.data.sentences import C1_AS_CP1252, CSV_MAX_BYTES, Sentence, Sentences, collect, one_hot, read_csv
from models.errors import DataError
from models.labels import find_label
from models.types import EMOTIONS, POLARITIES

BEFORE_MAX = 3
"""So many previous turns of the dialogue go with an utterance."""

COLUMNS = ("Utterance", "Emotion", "Sentiment")


def read(data: Path, split: str) -> Sentences:
    """Read `meld/SPLIT_sent_emo.csv`, else `meld/SPLIT.csv`, below `data`, in the order of dialogue and utterance.

    An utterance whose label is unknown is skipped, and yet a turn before the next one. Rows without numbers of
    dialogue and utterance stand alone.

    Args:
        data: The data folder, the folder of MELD, or one CSV file of this layout.
        split: The file's prefix (`train`, `dev`, also called `validation`, or another one), or `all`: every CSV with
            these columns that lies there, others skipped and counted. Not used when `data` is the file.

    Raises:
        DataError: No such file, without these columns, or no usable row.
    """
    paths, skipped = _paths(data, split)
    return collect(_rows(paths), skipped, paths[0] if len(paths) == 1 else data)


def _paths(data: Path, split: str) -> tuple[list[Path], int]:
    if data.is_file():
        return [data], 0
    folder = set_folder(data, "meld")
    files = files_below(folder, frozenset({".csv"}), CSV_MAX_BYTES)
    prefix = "dev" if split == "validation" else split
    if split == "all":
        found = list(files.paths)
    else:
        found = _named(files.paths, f"{prefix}_sent_emo") or _named(files.paths, prefix)
    if not found:
        names = ", ".join(path.name for path in files.paths[:10]) or "no CSV"
        name = "*" if split == "all" else f"{prefix}_sent_emo"
        raise DataError(f"cannot read {folder / name}.csv (found: {names}): see docs/data.md.")
    return found, files.skipped


def _named(paths: Sequence[Path], stem: str) -> list[Path]:
    return [path for path in paths if path.stem.lower() == stem.lower()]


def _rows(paths: Sequence[Path]) -> Iterator[Sentence | None]:
    for path in paths:
        try:
            turns, broken = _turns(path)
        except DataError:
            if len(paths) == 1:
                raise
            yield None
            continue
        yield from [None] * broken
        yield from _with_turns_before(turns)


def _with_turns_before(turns: Sequence[tuple[int, int, str, str, str]]) -> Iterator[Sentence | None]:
    earlier: list[str] = []
    last: int | None = None
    for dialogue, _, text, emotion, polarity in turns:
        earlier = earlier if dialogue == last and dialogue >= 0 else []
        last = dialogue
        place, pole = find_label(emotion, EMOTIONS), polarity.strip().lower()
        if place is None or pole not in POLARITIES:
            yield None
        else:
            yield Sentence(text, one_hot(EMOTIONS[place], EMOTIONS), one_hot(pole, POLARITIES), tuple(earlier))
        earlier = [*earlier, text][-BEFORE_MAX:]


def _turns(path: Path) -> tuple[list[tuple[int, int, str, str, str]], int]:
    """(dialogue, utterance, text, emotion, polarity) in the order of the numbers, -1 where they are missing; rows without words."""
    turns, broken = [], 0
    for row in read_csv(path, COLUMNS):
        text = " ".join((row.get("Utterance") or "").translate(C1_AS_CP1252).split())
        if not text:
            broken += 1
            continue
        numbers = [_number(row.get(name)) for name in ("Dialogue_ID", "Utterance_ID")]
        dialogue, utterance = numbers if min(numbers) >= 0 else (-1, -1)
        turns.append((dialogue, utterance, text, row.get("Emotion") or "", row.get("Sentiment") or ""))
    return sorted(turns, key=lambda turn: turn[:2]), broken


def _number(cell: str | None) -> int:
    return int(cell) if cell and len(cell) < 10 and cell.isascii() and cell.strip().isdecimal() else -1
