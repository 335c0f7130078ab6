"""Behavioural tests of the words' network in the style of CheckList (Ribeiro et al. 2020, arXiv:2005.04118).

Written for Undertone (`checklist.tsv` beside this file), by capability, and never trained on.
"""

from dataclasses import dataclass
from pathlib import Path

from models.data.sentences import read_csv
from models.errors import DataError
from models.types import PARTICIPANTS, POLARITIES

TESTS = Path(__file__).with_suffix(".tsv")

COLUMNS = ("capability", "kind", "participant", "expected", "text", "changed")

EXPECTED = {"minimum": POLARITIES, "invariance": POLARITIES, "direction": ("lower", "higher")}
"""By kind of test, what may be expected."""


@dataclass(frozen=True, slots=True)
class Test:
    """One test.

    Attributes:
        capability: What it asks for.
        kind: `minimum` (functionality): `text` has the polarity `expected`. `invariance`: `changed` means
            the same and gets the same answer, which should be `expected`. `direction`: the score of `changed` is `lower` or `higher` than that of `text`.
        participant: Who says it.
        expected: As `kind` says.
        text: A sentence.
        changed: Another one; empty in a test of minimum functionality.
    """

    capability: str
    kind: str
    participant: str
    expected: str
    text: str
    changed: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """One sentence or two."""
        return (self.text, self.changed) if self.changed else (self.text,)


def read(path: Path = TESTS) -> list[Test]:
    """Read tests from a tab-separated file with the columns `COLUMNS`.

    Raises:
        DataError: It cannot be read, lacks a column, holds no test, or one with an unknown kind, label or participant.
    """
    tests = []
    for row in read_csv(path, COLUMNS, delimiter="\t"):
        test = Test(*((row[name] or "").strip() for name in COLUMNS))
        known = test.participant in PARTICIPANTS and test.expected in EXPECTED.get(test.kind, ())
        if not known or not test.capability or not test.text or bool(test.changed) != (test.kind != "minimum"):
            raise DataError(f"{path}: {test} is no test: see docs/data.md.")
        tests.append(test)
    if not tests:
        raise DataError(f"{path} holds no test: see docs/data.md.")
    return tests


def bare(text: str) -> str:
    """Letters and digits in lower case: what two sentences share that differ in marks and blanks only."""
    return "".join(letter for letter in text.lower() if letter.isalnum())
