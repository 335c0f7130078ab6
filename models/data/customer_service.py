"""Sentences of customer service, made from a grammar written for Undertone (`customer_service.txt` beside this file)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.data.sentences import Sentence, Sentences, collect, one_hot
from models.errors import DataError
from models.types import EMOTIONS, PARTICIPANTS, POLARITIES

GRAMMAR = Path(__file__).with_suffix(".txt")

EXPANSIONS_MAX = 200
"""Choices that one sentence may need: a class of words that holds itself would never end."""

_CHOICE = re.compile(r"\[([^\[\]]*)\]|\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of the grammar: who says it, what it is (no emotion: it names none), and its choices."""

    participant: str
    polarity: str
    emotion: str | None
    text: str


def read(count: int, seed: int = 0, grammar: Path = GRAMMAR) -> Sentences:
    """Make `count` different sentences, every pattern equally often as far as its choices last.

    Args:
        count: How many.
        seed: Of the choices.
        grammar: Lines `NAME = a|b`, a class of words used as `{NAME}`; `PARTICIPANT POLARITY EMOTION: SENTENCE`, in which
            `[a|b]` is a choice, also inside another, and EMOTION is `-` where it names none; `#` begins a comment.

    Raises:
        DataError: The grammar cannot be read, or has not so many sentences.
    """
    classes, patterns = _parsed(grammar)
    rng = np.random.default_rng(seed)
    made: dict[str, Sentence] = {}
    for drawn in range(20 * count):
        if len(made) == count:
            break
        pattern = patterns[drawn % len(patterns)]
        text = _said(_expanded(pattern.text, classes, rng))
        if text not in made:
            made[text] = _sentence(pattern, text)
    if len(made) < count:
        raise DataError(f"{grammar} gives {len(made)} different sentences, not {count}: ask for fewer.")
    return collect(made.values(), 0, grammar)


def _parsed(grammar: Path) -> tuple[Mapping[str, list[str]], list[Pattern]]:
    try:
        lines = grammar.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the grammar {grammar}: {error}.") from error
    classes: dict[str, list[str]] = {}
    patterns = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if named := re.fullmatch(r"(\w+) = (.+)", line):
            classes[named[1]] = named[2].split("|")
        elif told := re.fullmatch(r"(\w+) (\w+) (\w+|-): (.+)", line):
            participant, polarity, emotion, text = told.groups()
            known = participant in PARTICIPANTS and polarity in POLARITIES and emotion in (*EMOTIONS, "-")
            if not known or not set(re.findall(r"\{(\w+)\}", text)) <= classes.keys():
                raise DataError(f"{grammar}, line {number}: an unknown participant, label or class of words.")
            patterns.append(Pattern(participant, polarity, None if emotion == "-" else emotion, text))
        else:
            raise DataError(f"{grammar}, line {number}: neither a class of words nor a sentence.")
    if not patterns:
        raise DataError(f"{grammar} holds no sentence.")
    return classes, patterns


def _expanded(text: str, classes: Mapping[str, list[str]], rng: np.random.Generator) -> str:
    """Inner choices first, until none is left."""

    def chosen(found: re.Match[str]) -> str:
        options = found[1].split("|") if found[2] is None else classes[found[2]]
        return options[int(rng.integers(len(options)))]

    for _ in range(EXPANSIONS_MAX):
        text, changed = _CHOICE.subn(chosen, text, count=1)
        if not changed:
            return text
    raise DataError(f"a class of words holds itself, or brackets do not close: {text[:200]!r}")


def _said(text: str) -> str:
    """Single spaces, none before a mark, one mark at the end, capitals where a sentence begins."""
    text = re.sub(r"\s+([.,!?]|'(?:m|ve|d|s|ll|re)\b)", r"\1", " ".join(text.split()))
    text = re.sub(r"([.!?,])[.,]+$", r"\1", text).removesuffix(",")
    return re.sub(r"(?:^|[.!?] )[a-z]", lambda found: found[0].upper(), text)


def _sentence(pattern: Pattern, text: str) -> Sentence:
    emotion = (
        np.zeros(len(EMOTIONS), dtype=np.float32) if pattern.emotion is None else one_hot(pattern.emotion, EMOTIONS)
    )
    return Sentence(text, emotion, one_hot(pattern.polarity, POLARITIES), participant=pattern.participant)
