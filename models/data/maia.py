"""MAIA-DQE: genuine customer-support conversations, an emotion a sentence by people (Mendonça et al. 2023).

The licence (CC BY-ND 4.0) lets nobody share adapted material: used to choose and to report, never to train.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.data.files import files_below, set_folder
from models.data.sentences import Sentence, Sentences, collect, one_hot
from models.errors import DataError
from models.types import EMOTIONS, POLARITIES

FILE_MAX_BYTES = 32 << 20
BEFORE_MAX = 3
"""So many previous sentences of the same party go with a sentence."""

POLARITY = ("positive", "positive", "neutral", "negative", None, "negative", "negative", "negative")
"""Of empathy, happiness, neutral, disappointment, confusion, frustration, anger, anxiety, whose numbers are 0 to 7.

None: confusion is left out, nobody can say on which side it stands.
"""

ENGLISH = {"customer": ("inbound", "text_mt"), "agent": ("outbound", "text_src")}
"""By participant: the name of the floor, and where its English stands; a customer's is a machine's translation."""


def read(data: Path, split: str, participant: str) -> Sentences:
    """Read the sentences of one party from the JSON files in `maia/` under `data`.

    Args:
        data: The data folder, a folder of such files, or one of them: a list of dialogues with `turns`, of which each
            has `floor`, `text_mt` and `text_src`, lists of sentences, and `Emotion`, a number for each.
        split: `validation` or `all`: every file that lies there; the name of a file, without `.json`: that one. Not used
            when `data` is the file.
        participant: `customer` or `agent`.

    Returns:
        With polarities, and no emotions: the set's eight are none of `EMOTIONS`. Confusion, unlabelled sentences and
        turns that are not laid out so are skipped.

    Raises:
        DataError: No such file, or no usable sentence.
    """
    folder, skipped = data, 0
    if data.is_file():
        paths = [data]
    else:
        folder = set_folder(data, "maia")
        files = files_below(folder, frozenset({".json"}), FILE_MAX_BYTES)
        paths = [path for path in files.paths if split in {"all", "validation", path.stem}]
        skipped = files.skipped
    if not paths:
        raise DataError(f"no JSON file of split {split!r} in {folder}: see docs/data.md.")
    return collect(
        (row for path in paths for row in _sentences(path, participant)), skipped, paths[0] if len(paths) == 1 else data
    )


def _sentences(path: Path, participant: str) -> Iterator[Sentence | None]:
    for dialogue in _dialogues(path):
        said: list[str] = []
        for turn in _turns(dialogue):
            if not isinstance(turn, Mapping):
                yield None
            elif turn.get("floor") == ENGLISH[participant][0]:
                for text, label in _labelled(turn, ENGLISH[participant][1]):
                    yield _sentence(text, label, tuple(said[-BEFORE_MAX:]), participant)
                    said += [" ".join(text.split())] if isinstance(text, str) and text.strip() else []


def _dialogues(path: Path) -> list[Any]:
    """What the file holds; one broken dialogue, which counts as skipped, where it cannot be read."""
    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            return [None]
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return [None]
    return found if isinstance(found, list) else [None]


def _turns(dialogue: object) -> list[Any]:
    turns = dialogue.get("turns") if isinstance(dialogue, Mapping) else None
    return turns if isinstance(turns, list) else [None]


def _labelled(turn: Mapping[str, Any], key: str) -> list[tuple[Any, Any]]:
    """Sentences with their labels; a turn in which they do not go together is one broken sentence."""
    texts, labels = turn.get(key), turn.get("Emotion")
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        return [(None, None)]
    return list(zip(texts, labels, strict=True))


def _sentence(text: object, label: object, before: tuple[str, ...], participant: str) -> Sentence | None:
    if not isinstance(text, str) or not text.strip() or type(label) is not int or not 0 <= label < len(POLARITY):
        return None
    polarity = POLARITY[label]
    if polarity is None:
        return None
    nothing = np.zeros(len(EMOTIONS), dtype=np.float32)
    return Sentence(" ".join(text.split()), nothing, one_hot(polarity, POLARITIES), before, participant)
