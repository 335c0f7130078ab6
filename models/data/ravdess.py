"""RAVDESS speech: 24 actors, 8 emotions in the file names (Livingstone & Russo 2018, doi:10.1371/journal.pone.0196391).

Split by actor only: the same sentences by the same voices on both sides of a split would measure who speaks.

A name is seven numbers, `03-01-06-01-02-01-12`: modality (01 film with sound, 02 film without, 03 sound), channel
(01 speech, 02 song), emotion, intensity, statement, repetition, actor. All but the first name a performance.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.data.files import Files, files_below, set_folder
from models.data.media import FILE_MAX_BYTES, FILM_SUFFIXES, SOUND_SUFFIXES
from models.data.recordings import Recordings, decode_all
from models.errors import DataError
from models.labels import RAVDESS_LABELS

SPLIT_ACTORS: Mapping[str, Sequence[int]] = {
    "train": range(1, 19),
    "validation": range(19, 22),
    "test": range(22, 25),
    "all": range(100),
}
FULL, SILENT, SOUND = 1, 2, 3
SPEECH = 1
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
"""The words of statements 01 and 02."""


@dataclass(frozen=True, slots=True)
class Performance:
    """One file and what its name says; `label` indexes `RAVDESS_LABELS`, `statement` counts from 1."""

    path: Path
    modality: int
    label: int
    statement: int
    actor: int

    @property
    def key(self) -> str:
        """The same for every file of one performance."""
        return self.path.stem.split("-", 1)[1]


def read(data: Path, split: str) -> Recordings:
    """Read the voices of the files below `ravdess/`, sound files and films alike.

    Of a performance that is there more than once the sound file counts, else the film with sound; films that say
    they have no sound (`02-…`) are passed over. Songs, unknown names and files without readable sound are skipped
    and counted.

    Args:
        data: The data folder, the folder of RAVDESS, or any folder of such files, as one actor's.
        split: `train` (actors 1-18), `validation` (19-21), `test` (22-24) or `all` actors that lie there.

    Raises:
        DataError: No such split, no such folder, or no readable clip of these actors.
    """
    heard, skipped = _heard(data, split)
    named = ((one.path, one.label, one.actor) for one in heard)
    return decode_all(named, RAVDESS_LABELS, skipped, _expected(data, split))


def read_words(data: Path, split: str) -> Recordings:
    """The same clips with the words that are spoken, `STATEMENTS`, for labels; any other statement is skipped and counted.

    Raises:
        DataError: As of `read`.
    """
    heard, skipped = _heard(data, split)
    named = [(one.path, one.statement - 1, one.actor) for one in heard if 1 <= one.statement <= len(STATEMENTS)]
    return decode_all(named, STATEMENTS, skipped + len(heard) - len(named), _expected(data, split))


def performances(data: Path, split: str, suffixes: frozenset[str]) -> tuple[list[Performance], int]:
    """The speech files of a split by their names, sorted, and how many files were skipped.

    Raises:
        DataError: No such split, or no such folder.
    """
    if split not in SPLIT_ACTORS:
        raise DataError(f"RAVDESS has no split {split!r}: choose one of {', '.join(SPLIT_ACTORS)}.")
    files = files_below(set_folder(data, "ravdess"), suffixes, FILE_MAX_BYTES)
    named = list(_named(files))
    kept = [one for one in named if one.actor in SPLIT_ACTORS[split]]
    return kept, files.skipped + len(files.paths) - len(named)


def _heard(data: Path, split: str) -> tuple[Collection[Performance], int]:
    """One file with sound per performance, and how many files were skipped."""
    found, skipped = performances(data, split, SOUND_SUFFIXES | FILM_SUFFIXES)
    heard: dict[str, Performance] = {}
    for one in found:
        if one.path.suffix.lower() in SOUND_SUFFIXES or (one.modality != SILENT and one.key not in heard):
            heard[one.key] = one
    return heard.values(), skipped


def _expected(data: Path, split: str) -> str:
    return (
        f"no RAVDESS clip of split {split!r} in {data}: expected ravdess/Actor_NN/ with .flac, .wav or films "
        "named like 03-01-06-01-02-01-12"
    )


def _named(files: Files) -> Iterator[Performance]:
    for path in files.paths:
        fields = path.stem.split("-")
        if len(fields) != 7 or not all(field.isascii() and field.isdecimal() and len(field) == 2 for field in fields):
            continue
        modality, channel, emotion, _, statement, _, actor = map(int, fields)
        if channel == SPEECH and modality in {FULL, SILENT, SOUND} and 1 <= emotion <= len(RAVDESS_LABELS):
            yield Performance(path, modality, emotion - 1, statement, actor)
