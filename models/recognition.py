"""How well words are recognised: what a transcriber wrote against what was said, counted in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

WORST = 20
"""So many sounds are named, those with the most wrong words."""


@dataclass(frozen=True, slots=True)
class WordsTask:
    """What a transcriber wrote for N sounds.

    Attributes:
        names: Which sound.
        said: The words of each, normalised; all empty where no sound holds any and silence is the right answer.
        written: What was written, normalised likewise.
        reliable: bool (N,), whether the transcriber's gates let the text pass.
    """

    names: tuple[str, ...]
    said: tuple[str, ...]
    written: tuple[str, ...]
    reliable: NDArray[np.bool_]

    def __len__(self) -> int:
        """How many sounds."""
        return len(self.names)


def judge_words(task: WordsTask) -> tuple[Callable[[Rows], dict[str, Rows]], dict[str, Any]]:
    """The figures of a task, and what stands beside them, as a JSON value.

    Args:
        task: Of N > 0 sounds.

    Returns:
        A function from weights (R, N), how often each sound counts, to every metric (R,). Where words are said: `wer`, the word
        error rate, errors over words said (above 1 where much is invented), `insertions`, `deletions`, `substitutions`, each a
        count, and `reliable_share` of the sounds. Where none is: `invented_words`, and `reliable_words`, those of them that
        passed the gates. And: `words`, how many were said; `constant`, the metrics of an empty transcript; `worst`, the sounds
        with the most wrong words.
    """
    said, written = ([text.split() for text in texts] for texts in (task.said, task.written))
    errors = np.array([word_errors(*pair) for pair in zip(said, written, strict=True)], dtype=np.float64)
    lengths, wrong = np.array([len(words) for words in said], dtype=np.float64), errors.sum(axis=1)
    total = int(lengths.sum())

    def figures(weights: Rows) -> dict[str, Rows]:
        inserted, deleted, substituted = (weights @ errors).T
        if not total:
            return {"reliable_words": weights @ (errors[:, 0] * task.reliable), "invented_words": inserted}
        spoken = weights @ lengths
        return {
            "wer": np.divide(weights @ wrong, spoken, out=np.full(len(weights), np.nan), where=spoken > 0),
            "insertions": inserted,
            "deletions": deleted,
            "substitutions": substituted,
            "reliable_share": weights @ task.reliable / weights.sum(axis=1),
        }

    constant: Mapping[str, float] = (
        {"wer": 1.0, "insertions": 0.0, "deletions": float(total), "substitutions": 0.0, "reliable_share": 0.0}
        if total
        else {"reliable_words": 0.0, "invented_words": 0.0}
    )
    rows = [row for row in np.argsort(-wrong, kind="stable")[:WORST] if wrong[row]]
    worst = [
        {
            "sound": task.names[row],
            "errors": int(wrong[row]),
            "said": task.said[row],
            "written": task.written[row],
            "reliable": bool(task.reliable[row]),
        }
        for row in rows
    ]
    return figures, {"words": total, "constant": constant, "worst": worst}


def word_errors(said: Sequence[str], written: Sequence[str]) -> tuple[int, int, int]:
    """Insertions, deletions and substitutions of the cheapest way from what was said to what was written.

    Every error costs one (Levenshtein 1966, Soviet Physics Doklady 10, 707); among equally cheap ways the one with the most
    substitutions counts. Time is the product of both lengths.
    """
    # Of the best way to every prefix of `written`: cost, insertions, deletions. The smallest such triple is the best way.
    row = [(place, place, 0) for place in range(len(written) + 1)]
    for one in said:
        above, row = row, [(row[0][0] + 1, row[0][1], row[0][2] + 1)]
        for place, other in enumerate(written):
            cost, inserted, deleted = above[place]
            dropped = (above[place + 1][0] + 1, above[place + 1][1], above[place + 1][2] + 1)
            added = (row[place][0] + 1, row[place][1] + 1, row[place][2])
            row.append(min((cost + (one != other), inserted, deleted), added, dropped))
    cost, inserted, deleted = row[-1]
    return inserted, deleted, cost - inserted - deleted
