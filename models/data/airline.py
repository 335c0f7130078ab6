"""Twitter US Airline Sentiment: customers writing to airlines in February 2015 (CrowdFlower; CC BY-NC-SA 4.0)."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from models.data.files import files_below, is_drawn, set_folder
from models.data.sentences import CSV_MAX_BYTES, Sentence, Sentences, collect, one_hot, read_csv
from models.errors import DataError
from models.types import EMOTIONS, POLARITIES

VALIDATION_SHARE = 10
"""One text in so many, by the hash of its words, is validation: the set has no split of its own."""

HASHED = frozenset({"train", "validation"})


COLUMNS = ("airline_sentiment", "text")


def read(data: Path, split: str) -> Sentences:
    """Read the CSV files in `airline/` under `data` that have the columns `airline_sentiment` and `text`.

    Args:
        data: The data folder, a folder of such files, or one of them (Kaggle's `Tweets.csv` is one).
        split: `train` or `validation` (a tenth, by hash) of `tweets_train.csv`, or without it of every file that is
            not called a test; the name of a file, with or without `tweets_`, for all of it; or `all`.

    Raises:
        DataError: No such file, or no usable row.
    """
    paths, skipped = _paths(data, split)
    return collect(_rows(paths, split), skipped, paths[0] if len(paths) == 1 else data)


def _rows(paths: Sequence[Path], split: str) -> Iterator[Sentence | None]:
    for path in paths:
        try:
            for row in read_csv(path, COLUMNS):
                text, polarity = (
                    as_sentence(row.get("text") or ""),
                    (row.get("airline_sentiment") or "").strip().lower(),
                )
                if not text or polarity not in POLARITIES:
                    yield None
                elif split not in HASHED or split == _split(text):
                    nothing = np.zeros(len(EMOTIONS), dtype=np.float32)
                    yield Sentence(text, nothing, one_hot(polarity, POLARITIES), participant="customer")
        except DataError:
            if len(paths) == 1:
                raise
            yield None


def _paths(data: Path, split: str) -> tuple[list[Path], int]:
    if data.is_file():
        return [data], 0
    folder = set_folder(data, "airline", "tweets")
    files = files_below(folder, frozenset({".csv"}), CSV_MAX_BYTES)
    stems = {path: path.stem.lower().removeprefix("tweets_") for path in files.paths}
    if split in HASHED:
        found = [path for path in files.paths if path.stem == "tweets_train"]
        found = found or [path for path in files.paths if "test" not in stems[path]]
    else:
        found = [path for path in files.paths if split in {"all", path.stem, stems[path]}]
    if not found:
        names = ", ".join(path.name for path in files.paths[:10]) or "no CSV"
        name = "tweets_train" if split in HASHED | {"all"} else split
        raise DataError(f"cannot read {folder / name}.csv (found: {names}): see docs/data.md.")
    return found, files.skipped


def as_sentence(tweet: str) -> str:
    """A tweet's words: HTML entities resolved; addressees, links and hash signs removed."""
    return " ".join(re.sub(r"https?://\S+|@\w+|#", " ", html.unescape(tweet)).split())


def _split(text: str) -> str:
    return "validation" if is_drawn(text.lower(), VALIDATION_SHARE) else "train"
