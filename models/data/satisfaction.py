"""User satisfaction simulation: people talking to service systems, satisfaction rated per turn (Sun et al. 2021, arXiv:2105.03748)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.data.files import files_below, is_drawn, set_folder
from models.data.sentences import CSV_MAX_BYTES, Sentence, Sentences, collect, one_hot
from models.errors import DataError
from models.types import EMOTIONS, POLARITIES, FloatArray

VALIDATION_SHARE = 10
"""One dialogue in so many, by the hash of its words, is validation: the set has no split of its own."""

DISSATISFIED, SATISFIED = 2.0, 4.0
"""Mean ratings (1 to 5) from which a turn counts as weakly negative, and as weakly positive; 3 is what most turns get."""

WEAK = 0.5
"""How much of such a turn's target is not neutral: raters judged the service by the whole dialogue, not these words."""

SERVICES = frozenset({"mwoz", "sgd"})
"""Whose system turns are those of a service: the others talk about films and have opinions of their own."""


def read(data: Path, split: str) -> Sentences:
    """Read the tab-separated dialogues (`.txt`) in `satisfaction/` under `data`: role, text, action, ratings.

    A user's turn is a customer's: neutral, and half so where its mean rating is at most 2 or at least 4. A service
    system's turn is an agent's: neutral. Empty lines part dialogues; the line `OVERALL` is no turn.

    Args:
        data: The data folder, a folder of such files, or one of them.
        split: `train` or `validation` (a tenth of the dialogues, by hash), or `all`.

    Raises:
        DataError: No such file or split, or no usable turn.
    """
    if split not in {"train", "validation", "all"}:
        raise DataError(f"no split {split!r} of satisfaction: name train, validation or all.")
    if data.is_file():
        paths, skipped = [data], 0
    else:
        files = files_below(set_folder(data, "satisfaction"), frozenset({".txt"}), CSV_MAX_BYTES)
        paths, skipped = list(files.paths), files.skipped
    return collect((row for path in paths for row in _rows(path, split)), skipped, data)


def _rows(path: Path, split: str) -> Iterator[Sentence | None]:
    try:
        if path.stat().st_size > CSV_MAX_BYTES:
            yield None
            return
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        yield None
        return
    dialogue: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            dialogue.append(line)
        elif dialogue:
            drawn = "validation" if is_drawn("\n".join(dialogue), VALIDATION_SHARE) else "train"
            if split in {"all", drawn}:
                yield from _turns(dialogue, of_service=path.stem.lower() in SERVICES)
            dialogue = []


def _turns(dialogue: list[str], *, of_service: bool) -> Iterator[Sentence | None]:
    nothing = np.zeros(len(EMOTIONS), dtype=np.float32)
    for line in dialogue:
        role, text, *others = [cell.strip() for cell in line.split("\t")] + [""]
        if role == "SYSTEM" and text and of_service:
            yield Sentence(text, nothing, one_hot("neutral", POLARITIES), participant="agent")
        elif role == "USER" and text != "OVERALL":
            polarity = _polarity(others[1] if len(others) > 1 else "")
            yield None if polarity is None or not text else Sentence(text, nothing, polarity, participant="customer")
        elif role not in {"SYSTEM", "USER"}:
            yield None


def _polarity(cell: str) -> FloatArray | None:
    """The target of a turn with these ratings; None where they are none."""
    ratings = [int(one) for one in cell.split(",") if one in {"1", "2", "3", "4", "5"}]
    if not ratings or len(ratings) != cell.count(",") + 1:
        return None
    mean = sum(ratings) / len(ratings)
    if DISSATISFIED < mean < SATISFIED:
        return one_hot("neutral", POLARITIES)
    pole = "negative" if mean <= DISSATISFIED else "positive"
    return np.asarray(WEAK * one_hot(pole, POLARITIES) + (1 - WEAK) * one_hot("neutral", POLARITIES), dtype=np.float32)
