"""What every set of labelled words gives, and how a recogniser would have written them."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from models.errors import DataError
from models.types import UNKNOWN_PARTICIPANT, FloatArray

T = TypeVar("T")

CSV_MAX_BYTES = 128 << 20
ROWS_MAX = 1_000_000
"""Of one file, and of all files of a set together."""

C1_AS_CP1252 = {code: char for code in range(0x80, 0xA0) if (char := bytes([code]).decode("cp1252", "ignore"))}
"""For `str.translate`: what cp1252 means by the bytes that were taken for the control characters U+0080 to U+009F."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One row of a set: target distributions over `EMOTIONS` (7,) and `POLARITIES` (3,), the rest as in `Sentences`."""

    text: str
    emotion: FloatArray
    polarity: FloatArray
    before: tuple[str, ...] = ()
    participant: str = UNKNOWN_PARTICIPANT


@dataclass(frozen=True, slots=True)
class Sentences:
    """N texts with target distributions over `EMOTIONS` (N, 7) and `POLARITIES` (N, 3).

    A row of zeros means that the set says nothing about it. `skipped` counts rows that could not be read. `before`
    holds for each text the previous turns of its dialogue, oldest first; empty ones in a set without dialogues.
    `participants` says of each who speaks, one of `PARTICIPANTS`.
    """

    texts: tuple[str, ...]
    emotion: FloatArray
    polarity: FloatArray
    skipped: int
    before: tuple[tuple[str, ...], ...] = ()
    participants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """A set without dialogues, or without customers and agents, need not say so for each text."""
        if not self.before:
            object.__setattr__(self, "before", ((),) * len(self.texts))
        if not self.participants:
            object.__setattr__(self, "participants", (UNKNOWN_PARTICIPANT,) * len(self.texts))

    def __len__(self) -> int:
        """How many texts."""
        return len(self.texts)

    def take(self, rows: Iterable[int]) -> "Sentences":
        """These rows, in this order."""
        places = list(rows)
        return Sentences(
            tuple(self.texts[place] for place in places),
            self.emotion[places],
            self.polarity[places],
            self.skipped,
            tuple(self.before[place] for place in places),
            tuple(self.participants[place] for place in places),
        )


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
        tuple(row.participant for row in found),
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
    path: Path, columns: Sequence[str] = (), max_bytes: int = CSV_MAX_BYTES, delimiter: str = ","
) -> Iterator[dict[str, str | None]]:
    """Rows of a CSV with a header: UTF-8, and cp1252 where a line is not UTF-8.

    A column that a row lacks is None, as are all of a broken one (a field of more than 128 KiB, a NUL): the caller
    counts such rows.

    Args:
        path: The file.
        columns: What the header must hold; blanks around its names are cut off.
        max_bytes: Of the file.
        delimiter: Between two columns; behind a tab, quotation marks mean themselves.

    Raises:
        DataError: No such file, too large, without these columns, or more than `ROWS_MAX` rows.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"{path} is larger than {max_bytes} bytes: give the file that docs/data.md describes.")
        with path.open("rb") as file:
            plain = delimiter == "\t"
            reader = csv.reader(
                _lines(file), delimiter=delimiter, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
            )
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


def as_recognised(text: str) -> str:
    """The text as a recogniser without punctuation gives it: lower case, no marks but apostrophes."""
    words = re.sub(r"[^\w\s']|_", " ", text.lower().replace("\u2019", "'")).split()
    return " ".join(words) or text


SUBSTITUTED = 0.04
"""Share of the words that may be misheard, and are."""

DROPPED = 0.04
"""Share of the short words that are lost."""

SOUND_ALIKE = (
    ("their", "there", "they're"), ("your", "you're"), ("its", "it's"), ("to", "two", "too"), ("for", "four"),
    ("hear", "here"), ("new", "knew"), ("right", "write"), ("week", "weak"), ("our", "are"),
    ("buy", "by"), ("wait", "weight"), ("hole", "whole"), ("male", "mail"), ("bill", "build"), ("call", "cool"),
    ("then", "than"), ("where", "wear"), ("would", "wood"), ("this", "these"), ("is", "it's"), ("and", "in"),
    ("cheque", "check"), ("ate", "eight"), ("won", "one"), ("plane", "plan"), ("meet", "meat"), ("sent", "send"),
    ("of", "have"), ("an", "and"), ("was", "what's"), ("line", "lying"), ("router", "rooter"), ("phone", "fun"),
)  # fmt: skip
MISHEARD: Mapping[str, tuple[str, ...]] = {
    word: tuple(other for words in SOUND_ALIKE if word in words for other in words if other != word)
    for word in {word for words in SOUND_ALIKE for word in words}
}
"""Words that sound alike, each with what may be written in its place. None turns yes into no."""

SHORT = frozenset({"a", "an", "the", "is", "to", "of", "and", "it", "that", "i", "in", "on", "so", "just", "well"})
DIGITS = {word: str(number) for number, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])}  # fmt: skip


def as_transcribed(text: str, rng: np.random.Generator) -> str:
    """The text with the errors of Whisper, which keeps case and marks.

    Words that sound alike, short words lost, two words as one, numbers as digits; and a full stop where somebody
    exclaims, in half of the texts.
    """
    if rng.random() < 0.5:
        text = text.replace("!", ".")
    heard: list[str] = []
    for word in text.split():
        bare = word.strip(".,!?;:").lower()
        draw = rng.random()
        if bare in DIGITS and draw < 0.7:
            heard.append(word.lower().replace(bare, DIGITS[bare]))
        elif bare in MISHEARD and draw < SUBSTITUTED:
            options = MISHEARD[bare]
            heard.append(word.lower().replace(bare, options[int(rng.integers(len(options)))]))
        elif bare in SHORT and draw > 1 - DROPPED:
            continue
        elif heard and heard[-1][-1].isalnum() and bare in SHORT and draw > 1 - 1.5 * DROPPED:
            heard[-1] += word
        else:
            heard.append(word)
    return " ".join(heard) or text
