"""Telephone numbers as they are written and dialled (`phonenumbers`, Google's libphonenumber)."""

from collections.abc import Sequence

import phonenumbers

from pipelines.redaction.context import LOOK_AHEAD, about
from pipelines.redaction.finding import Utterance
from pipelines.redaction.runs import Run

DIGITS_MIN, DIGITS_MAX = 7, 15  # ITU-T E.164
LOOKED_UP_MAX = 64
"""So many numbers of one text are looked up; what comes behind them counts as dialled."""
_AMERICAN_GROUPS = ((3, 3, 4), (1, 3, 3, 4))


class Phones:
    """Says which runs of one text are telephone numbers, as they are dialled in `countries`."""

    def __init__(self, countries: Sequence[str]) -> None:
        self._countries = countries
        self._looked_up = 0

    def is_phone(self, utterance: Utterance, run: Run) -> bool:
        """Whether a run is one: by its `+`, by the words before it, or by its form alone."""
        digits = run.digits
        if not DIGITS_MIN <= len(digits) <= DIGITS_MAX or any(element.is_loose for element in run.elements[1:]):
            return False
        first = run.first
        if first and not utterance.tokens[first].spaced and utterance.tokens[first - 1].is_word:
            return False  # UA6016053916 is none
        if utterance.text(first - 1) in ("+", "plus") or (digits.startswith("00") and len(digits) > 9):
            return len(digits) > DIGITS_MIN
        said = about(utterance, run)
        if said is None and utterance.goes_on and run.end + LOOK_AHEAD > len(utterance.tokens):
            return True  # the word behind it that says so, or that it is a card, may still come
        if said == "phone":
            return len(digits) > 8 or run.groups == (3, 4) or self._is_dialled(digits)
        return said is None and (self._is_american(run) or self._has_form(digits))

    def _is_american(self, run: Run) -> bool:
        """Whether its groups are those of the North American plan, whose area codes begin with 2 to 9."""
        here = "US" in self._countries or "CA" in self._countries
        return here and run.groups in _AMERICAN_GROUPS and run.digits[-10] in "23456789"

    def _has_form(self, digits: str) -> bool:
        return (digits[0] == "0" or len(digits) > 9) and self._is_dialled(digits)

    def _is_dialled(self, digits: str) -> bool:
        """Whether somebody in one of the countries reaches a telephone by these digits."""
        self._looked_up += 1
        return self._looked_up > LOOKED_UP_MAX or any(_is_valid(digits, country) for country in self._countries)


def _is_valid(digits: str, country: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(digits, country))
    except phonenumbers.NumberParseException:
        return False
