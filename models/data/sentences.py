"""What every set of labelled words gives, and how a recogniser would have written them."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from models.errors import DataError
from models.types import FloatArray

T = TypeVar("T")

CSV_MAX_BYTES = 128 << 20
ROWS_MAX = 1_000_000
"""Of one file, and of all files of a set together."""

C1_AS_CP1252 = {code: char for code in range(0x80, 0xA0) if (char := bytes([code]).decode("cp1252", "ignore"))}
"""For `str.translate`: what cp1252 means by the bytes that were taken for the control characters U+0080 to U+009F."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One row of a set: target distributions over `EMOTIONS` (7,) and `POLARITIES` (3,), `before` as in `Sentences`."""

    text: str
    emotion: FloatArray
    polarity: FloatArray
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sentences:
    """N texts with target distributions over `EMOTIONS` (N, 7) and `POLARITIES` (N, 3).

    A row of zeros means that the set says nothing about it. `skipped` counts rows that could not be read. `before`
    holds for each text the previous turns of its dialogue, oldest first; empty ones in a set without dialogues.
    """

    texts: tuple[str, ...]
    emotion: FloatArray
    polarity: FloatArray
    skipped: int
    before: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        """A set without dialogues need not say so for each text."""
        if not self.before:
            object.__setattr__(self, "before", ((),) * len(self.texts))

    def __len__(self) -> int:
        """How many texts."""
        return len(self.texts)


def usable(rows: Iterable[T | None], source: Path) -> tuple[list[T], int]:
    """The rows of all files of a set, and how many are broken (None).

    Raises:
        DataError: There are more than `ROWS_MAX`, broken ones included.
    """
    found, broken = [], 0
    for place, row in enumerate(rows):
        if place == ROWS_MAX:
            raise DataError(f"more than {ROWS_MAX} rows in {source}: give fewer files, or a smaller split.")
        if row is None:
            broken += 1
        else:
            found.append(row)
    return found, broken


def collect(rows: Iterable[Sentence | None], skipped: int, source: Path) -> Sentences:
    """Stack the rows of all files of a set; None, a broken row or file, is skipped and counted.

    Raises:
        DataError: There is none, or more than `ROWS_MAX`, broken ones included.
    """
    found, broken = usable(rows, source)
    skipped += broken
    if not found:
        raise DataError(f"no usable row in {source} ({skipped} skipped): is it the file that docs/data.md describes?")
    return Sentences(
        tuple(row.text for row in found),
        np.stack([row.emotion for row in found]),
        np.stack([row.polarity for row in found]),
        skipped,
        tuple(row.before for row in found),
    )


def one_hot(label: str, labels: tuple[str, ...]) -> FloatArray:
    """The distribution that is certain of `label`.

    Raises:
        ValueError: An unknown label.
    """
    row = np.zeros(len(labels), dtype=np.float32)
    row[labels.index(label)] = 1.0
    return row


def read_csv(
    path: Path, columns: Sequence[str] = (), max_bytes: int = CSV_MAX_BYTES
) -> Iterator[dict[str, str | None]]:
    """Rows of a CSV with a header: UTF-8, and cp1252 where a line is not UTF-8.

    A column that a row lacks is None, as are all of a broken one (a field of more than 128 KiB, a NUL): the caller
    counts such rows.

    Args:
        path: The file.
        columns: What the header must hold; blanks around its names are cut off.
        max_bytes: Of the file.

    Raises:
        DataError: No such file, too large, without these columns, or more than `ROWS_MAX` rows.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"{path} is larger than {max_bytes} bytes: give the file that docs/data.md describes.")
        with path.open("rb") as file:
            reader = csv.reader(_lines(file))
            header = [name.strip() for name in _row(reader) or []]
            if missing := [name for name in columns if name not in header]:
                raise DataError(
                    f"no column {', '.join(missing)} in {path} (found: {', '.join(header)[:200] or 'nothing'}): "
                    "is it the file that docs/data.md describes?"
                )
            for _ in range(ROWS_MAX):
                row = _row(reader)
                if row is None:
                    return
                yield dict(zip_longest(header, row[: len(header)]))
            raise DataError(f"more than {ROWS_MAX} rows in {path}: split the file.")
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}): give the folder that docs/data.md describes."
        ) from error


def _row(reader: "Iterator[list[str]]") -> list[str] | None:
    """The next row that is not blank, an empty one where it is broken, None at the end."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return None
        except csv.Error:
            return []
        if row:
            return [] if any("\0" in cell for cell in row) else row


def _lines(file: IO[bytes]) -> Iterator[str]:
    for place, line in enumerate(file):
        raw = line.removeprefix(b"\xef\xbb\xbf") if place == 0 else line
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:
            yield raw.decode("cp1252", errors="replace")


def as_recognised(text: str, rng: np.random.Generator, dropped: float = 0.04) -> str:
    """The text as a speech recogniser gives it: lower case, no punctuation but apostrophes, a few words lost."""
    words = re.sub(r"[^\w\s']|_", " ", text.lower().replace("\u2019", "'")).split()
    kept = [word for word in words if rng.random() >= dropped]
    return " ".join(kept or words) or text
