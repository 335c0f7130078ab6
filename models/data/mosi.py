"""CMU-MOSI as a table: 100 numbers of the words, 73 of the voice and 100 of the face per utterance of a film review.

The opinions are of Zadeh et al. 2016 (arXiv:1606.06259), the numbers of Poria et al. 2017 (doi:10.18653/v1/P17-1081):
a CNN's of the words, openSMILE's of the voice, a 3D-CNN's of the face. The two CNNs were trained with the labels of
the training file: its rows look far easier to tell apart than new ones will.
"""

import csv
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from string import digits

import numpy as np

from models.data.files import files_below, is_drawn, set_folder
from models.data.sentences import CSV_MAX_BYTES, ROWS_MAX, read_csv
from models.data.tables import Row, Table, collect
from models.errors import DataError
from models.types import FloatArray, Modality

LABELS = ("negative", "positive")
LENGTHS: Mapping[Modality, int] = {Modality.AUDIO: 73, Modality.VIDEO: 100, Modality.TEXT: 100}
"""Numbers per modality; the label follows them."""

VALIDATION_SHARE = 5
"""One video of the training file in so many, by the hash of its id, is validation: the set has no such split."""

UTTERANCES = "utterances_"
COLUMNS = ("row", "video_id", "positive")

MAGNITUDE_MAX = 1e30
"""A larger number is no measurement, and would not fit float32."""


def read(data: Path, split: str) -> Table:
    """Read `mosi/{audio,video,text}/*_STEM0.csv` and `mosi/utterances_STEM.csv` below `data`, or below `mosi` itself.

    The three tables belong together line by line, and to the utterances by the number in their column `row`. A number
    of which one file has a broken row, or whose label is not the same in all files, is skipped in all and counted once.

    Args:
        data: The data folder.
        split: `train` or `validation` (the training file, divided by video), `all` (every stem there; one whose files
            are missing or do not belong together is skipped and counted), or a stem, such as `test`.

    Raises:
        DataError: A file of the only stem is missing, its tables differ in length, or no row is left.
    """
    folder = set_folder(data, "mosi")
    carved = split in {"train", "validation"}
    files = files_below(folder, frozenset({".csv"}), CSV_MAX_BYTES)
    utterances, tables = _by_stem(files.paths)
    stems = sorted({*utterances, *(stem for _, stem in tables)})
    if split == "all" and not stems:
        raise DataError(f"no {UTTERANCES}SPLIT.csv in {folder}: give the folder that docs/data.md describes.")
    rows = _rows(stems if split == "all" else ["train" if carved else split.lower()], utterances, tables, folder)
    wanted = (row for row in rows if row is None or not carved or split_of(row[2]) == split)
    return collect(wanted, tuple(LENGTHS), files.skipped, folder)


def split_of(video: str) -> str:
    """`validation` for a fifth of the videos, by hash, else `train`."""
    return "validation" if is_drawn(video, VALIDATION_SHARE) else "train"


Utterances = Mapping[str, Sequence[Path]]
Tables = Mapping[tuple[Modality, str], Sequence[Path]]


def _by_stem(paths: Iterable[Path]) -> tuple[Utterances, Tables]:
    """The utterance files, and the tables of every modality, of each stem (in lower case)."""
    utterances: dict[str, list[Path]] = {}
    rest: list[Path] = []
    for path in paths:
        name = path.stem.lower()
        if name.startswith(UTTERANCES):
            utterances.setdefault(name.removeprefix(UTTERANCES), []).append(path)
        else:
            rest.append(path)
    tables: dict[tuple[Modality, str], list[Path]] = {}
    for path in rest:
        modality = next((modality for modality in LENGTHS if path.parent.name.lower() == modality), None)
        if modality is not None:
            stem = _stem(path.stem.lower().removeprefix(f"{modality}_"), utterances)
            tables.setdefault((modality, stem), []).append(path)
    return utterances, tables


def _stem(name: str, known: Container[str]) -> str:
    """`name` without as few digits of its number as name a known stem, or without all of them."""
    bare = name.rstrip(digits)
    shorter = (name[:end] for end in range(len(name) - 1, len(bare) - 1, -1))
    return next((stem for stem in (*shorter, name) if stem in known), bare)


def _rows(stems: Sequence[str], utterances: Utterances, tables: Tables, folder: Path) -> Iterator[Row | None]:
    for stem in stems:
        try:
            labelled, count = _utterances(_only(utterances.get(stem, ()), f"{UTTERANCES}{stem}.csv", folder))
            measured = [
                _numbers(_only(tables.get((modality, stem), ()), f"{modality}/*_{stem}0.csv", folder), length)
                for modality, length in LENGTHS.items()
            ]
            _refuse_other_lengths(stem, count, [len(table) for table in measured])
            yield from _joined(labelled, measured)
        except DataError:
            if len(stems) == 1:
                raise
            yield None


def _only(paths: Sequence[Path], name: str, folder: Path) -> Path:
    if len(paths) != 1:
        raise DataError(f"{len(paths)} usable files {name} in {folder}, one is wanted: fetch that split of MOSI.")
    return paths[0]


def _utterances(path: Path) -> tuple[dict[str, tuple[float, str]], int]:
    """Label and video by the number of the row, and how many rows there are; broken and repeated ones are left out."""
    found: dict[str, tuple[float, str]] = {}
    repeated: set[str] = set()
    count = 0
    for fields in read_csv(path, COLUMNS):
        count += 1
        number, video, label = (fields.get(name) or "" for name in COLUMNS)
        if number in found:
            repeated.add(number)
        elif video and label in {"0", "1"}:
            found[number] = float(label), video
    return {number: labelled for number, labelled in found.items() if number not in repeated}, count


def _refuse_other_lengths(stem: str, utterances: int, tables: Sequence[int]) -> None:
    # Fewer utterances may be: a quote that is never closed takes rows with it, and each names its number.
    if len(set(tables)) != 1 or utterances > tables[0]:
        labelled = ", ".join(f"{modality}/ {length}" for modality, length in zip(LENGTHS, tables, strict=True))
        raise DataError(
            f"the MOSI files of {stem!r} differ in length ({UTTERANCES}{stem}.csv {utterances}, {labelled}): "
            "rows would not belong together."
        )


def _joined(
    utterances: Mapping[str, tuple[float, str]], tables: Sequence[Sequence[FloatArray | None]]
) -> Iterator[Row | None]:
    """Number by number; None where a table or the utterances have no row, or their labels differ."""
    for place, parts in enumerate(zip(*tables, strict=True)):
        label, video = utterances.get(str(place), (None, ""))
        whole = [part for part in parts if part is not None]
        if label is None or len(whole) < len(parts) or any(part[-1] != label for part in whole):
            yield None
        else:
            yield [part[:-1] for part in whole], int(label), video


def _numbers(path: Path, length: int) -> list[FloatArray | None]:
    """Every line's numbers, the label last; None where they are not `length` + 1 numbers.

    Line by line, so that a quote that is never closed takes no other rows with it.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            lines = (line for line in file if line.strip())
            found = [_row(line, length + 1) for line in islice(lines, ROWS_MAX)]
            if next(lines, None) is not None:
                raise DataError(f"more than {ROWS_MAX} rows in {path}: split the file.")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): fetch that split of MOSI.") from error
    return found


def _row(line: str, length: int) -> FloatArray | None:
    try:
        values = np.array([float(field) for field in next(csv.reader([line]))])
    except (csv.Error, ValueError):
        return None
    usable = len(values) == length and bool((np.abs(values) < MAGNITUDE_MAX).all())
    return values.astype(np.float32) if usable else None
