"""What every set of labelled words gives, and how a recogniser would have written them."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.data import DataError
from models.types import FloatArray


@dataclass(frozen=True, slots=True)
class Sentences:
    """N texts with target distributions over `EMOTIONS` (N, 7) and `POLARITIES` (N, 3).

    A row of zeros means that the set says nothing about it. `skipped` counts rows that could not be read.
    """

    texts: tuple[str, ...]
    emotion: FloatArray
    polarity: FloatArray
    skipped: int

    def __len__(self) -> int:
        """How many texts."""
        return len(self.texts)


def collect(rows: list[tuple[str, FloatArray, FloatArray]], skipped: int, source: Path) -> Sentences:
    """Stack (text, emotion, polarity) rows.

    Raises:
        DataError: There is none.
    """
    if not rows:
        raise DataError(
            f"no usable row in {source} ({skipped} skipped): is it the file that the data README describes?"
        )
    texts, emotion, polarity = zip(*rows, strict=True)
    return Sentences(texts, np.stack(emotion), np.stack(polarity), skipped)


def one_hot(label: str, labels: tuple[str, ...]) -> FloatArray:
    """The distribution that is certain of `label`.

    Raises:
        ValueError: An unknown label.
    """
    row = np.zeros(len(labels), dtype=np.float32)
    row[labels.index(label)] = 1.0
    return row


def read_csv(path: Path) -> Iterator[dict[str, str | None]]:
    """Rows of a CSV with a header, UTF-8; bytes that are not become U+FFFD.

    Raises:
        DataError: No such file, or not a CSV.
    """
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}): give the folder that the data README describes."
        ) from error
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file ({error}).") from error


def as_recognised(text: str, rng: np.random.Generator, dropped: float = 0.04) -> str:
    """The text as a speech recogniser gives it: lower case, no punctuation but apostrophes, a few words lost."""
    words = re.sub(r"[^\w\s']|_", " ", text.lower().replace("\u2019", "'")).split()
    kept = [word for word in words if rng.random() >= dropped]
    return " ".join(kept or words) or text
