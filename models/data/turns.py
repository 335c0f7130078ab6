"""A recorded call whose turns are known: a sound file, a channel a participant, and beside it a `.txt` of the same name.

The `.txt` is a table separated by tabs, `start_ms end_ms participant words`, as `deployments/sample/make_sample.py` writes it.
"""

from pathlib import Path

import numpy as np

from models.data.files import files_below, set_folder
from models.data.librivox import LENGTH_MAX_S, read_text
from models.data.media import FILE_MAX_BYTES, SOUND_SUFFIXES, read_sound
from models.data.recordings import Recordings
from models.errors import DataError
from models.types import SAMPLE_RATE_HZ, FloatArray

CHANNELS = ("agent", "customer")
HEADER = ["start_ms", "end_ms", "participant", "words"]
AROUND_MS = 200
"""Heard before and after a turn, about as much as the segmenter leaves around speech."""

Turn = tuple[int, int, int, str]
"""Start and end in ms from the start of the call, channel, words."""


def read(data: Path, split: str) -> Recordings:
    """Cut the calls below `sample/` into their turns; the label of each is its words, the speaker its channel.

    Lines that are no turn, and turns outside their sound, are skipped and counted.

    Args:
        data: The data folder, or any folder of such calls.
        split: `validation` or `all`: nothing here is trained on.

    Raises:
        DataError: No such split, no such folder, or no turn.
    """
    if split not in {"validation", "all"}:
        raise DataError(f"recorded calls have no split {split!r}: choose validation or all.")
    files = files_below(set_folder(data, "sample"), SOUND_SUFFIXES, FILE_MAX_BYTES)
    found: list[tuple[FloatArray, int, str]] = []
    skipped = files.skipped
    for path in files.paths:
        turns, broken = _turns(read_text(path.with_suffix(".txt")))
        heard = _cut(path, turns)
        found += heard
        skipped += broken + len(turns) - len(heard)
    if not found:
        raise DataError(
            f"no call with its turns in {data} ({skipped} skipped): expected a sound file and a table of {', '.join(HEADER)} "
            "in a .txt of the same name beside it"
        )
    clips, channels, words = zip(*found, strict=True)
    names = tuple(f"turn {row}" for row in range(1, len(words) + 1))
    return Recordings(names, list(clips), np.arange(len(words)), words, np.array(channels, dtype=np.int64), skipped)


def _turns(table: str) -> tuple[list[Turn], int]:
    """The turns of a table, and how many lines are none; a text with another header holds no line at all."""
    header, *lines = [line.split("\t") for line in table.splitlines()] or [[""]]
    turns = [] if header != HEADER else [turn for line in lines if (turn := _turn(line)) is not None]
    return turns, len(lines) - len(turns)


def _turn(fields: list[str]) -> Turn | None:
    if len(fields) != len(HEADER) or fields[2] not in CHANNELS or not fields[3].strip():
        return None
    if not all(field.isascii() and field.isdecimal() and len(field) < 9 for field in fields[:2]):
        return None
    start_ms, end_ms = map(int, fields[:2])
    return (start_ms, end_ms, CHANNELS.index(fields[2]), fields[3]) if start_ms < end_ms else None


def _cut(path: Path, turns: list[Turn]) -> list[tuple[FloatArray, int, str]]:
    """The sound, channel and words of every turn that lies within its channel's sound."""
    channels = {channel: read_sound(path, LENGTH_MAX_S, channel) for channel in {turn[2] for turn in turns}}
    found = []
    for start_ms, end_ms, channel, words in turns:
        samples = channels[channel]
        edges = [max(0, ms) * SAMPLE_RATE_HZ // 1000 for ms in (start_ms - AROUND_MS, end_ms + AROUND_MS)]
        if samples is not None and end_ms * SAMPLE_RATE_HZ // 1000 <= len(samples):
            found.append((samples[edges[0] : edges[1]], channel, words))
    return found
