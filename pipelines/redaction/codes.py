"""Numbers with letters in them: IBAN (ISO 13616) and national numbers, written or spelled."""

import re
from collections.abc import Collection, Iterator

from stdnum import iban

from pipelines.redaction.context import named
from pipelines.redaction.finding import HESITATIONS, Kind, Utterance
from pipelines.redaction.ids import RULES
from pipelines.redaction.runs import Reader

IBAN_MIN, IBAN_MAX = 15, 34
LETTERS_MAX = 6  # the surname and name of a codice fiscale
ID_MIN = 8
BETWEEN_MAX = 4
"""Marks and hesitations between two parts of a code."""
_IBAN = re.compile(r"[A-Z]{2}\d\d[A-Z0-9]{11,30}")
_IBAN_BEGINS = re.compile(r"[A-Z]{2}\d\d")
_BETWEEN = frozenset("-.,") | HESITATIONS
_SPELLING = ("for", "as")


class CodeRules:
    """Takes the codes of one text: IBAN, and national numbers of `countries` that have letters."""

    def __init__(self, utterance: Utterance, reader: Reader, countries: Collection[str]) -> None:
        self._utterance, self._reader = utterance, reader
        self._digits: set[int] = set()
        self._rules = [rule for rule in RULES if rule.country in countries and not rule.is_digits]

    def find(self) -> None:
        """Take every code; a text that says no digit has none."""
        tokens, place = self._utterance.tokens, 0
        self._digits = {at for at in range(len(tokens)) if self._reader.read(at) is not None}
        if not self._digits:
            return
        while place < len(tokens):
            found = self._code_at(place) if self._begins(place) else None
            if found is None:
                place += 1
                continue
            kind, end = found
            self._utterance.take(kind, place, end)
            place = end

    def _code_at(self, place: int) -> tuple[Kind, int] | None:
        """The longest code that begins at a token, and the token behind it."""
        found: tuple[Kind, int] | None = None
        for code, end in self._read_on(place):
            if code.isdigit() or (not self._is_spaced(end) and self._utterance.text(end).isalnum()):
                continue
            if is_iban(code):
                return "iban", end
            if self._is_id(code):
                found = "id", end
        return found

    def _is_id(self, code: str) -> bool:
        return len(code) >= ID_MIN and any(
            rule.form.fullmatch(code) and (named(self._utterance, rule) or (rule.is_sure and rule.check(code)))
            for rule in self._rules
        )

    def _read_on(self, place: int) -> Iterator[tuple[str, int]]:
        """Letters and digits from a token on, one more token each time, at most `IBAN_MAX` of them; and the token behind."""
        tokens = self._utterance.tokens
        code, between = "", 0
        while place < len(tokens) and len(code) < IBAN_MAX and place not in self._utterance.taken:
            token = tokens[place]
            read = None if token.is_letter else self._reader.read(place)
            if read is not None:
                code, place, between = code + read[0], read[1], 0
            elif self._is_part(place, code):
                code, place, between = code + token.text.upper(), self._behind_spelling(place), 0
            elif code and between < BETWEEN_MAX and self._is_between(place):
                place, between = place + 1, between + 1
                continue
            else:
                return
            yield code, place

    def _is_part(self, place: int, code: str) -> bool:
        """Whether letters may be part of a code that began with `code`; words of a sentence are not."""
        token = self._utterance.tokens[place]
        if not (token.text.isascii() and token.text.isalpha()) or len(token.text) > LETTERS_MAX:
            return False
        is_glued = not token.spaced or not self._is_spaced(place + 1)
        is_bank = len(token.text) == 4 and _IBAN_BEGINS.fullmatch(code) is not None
        return token.upper or is_glued or is_bank or len(token.text) <= 2

    def _is_between(self, place: int) -> bool:
        """Whether a mark may stand within a code; the full stop of a sentence may not."""
        mark = self._utterance.text(place)
        return mark in _BETWEEN and not (mark == "." and self._is_spaced(place + 1))

    def _behind_spelling(self, place: int) -> int:
        """The token behind a letter, and behind what spells it: `d for delta`, `d as in david`."""
        utterance = self._utterance
        if utterance.tokens[place].is_letter and utterance.text(place + 1) in _SPELLING:
            word = place + 2 + (utterance.text(place + 2) == "in")
            if utterance.text(word).startswith(utterance.text(place)):
                return word + 1
        return place + 1

    def _begins(self, place: int) -> bool:
        """Whether a code may begin there: at a word or a number, not within one (`510-832-6554`)."""
        token = self._utterance.tokens[place]
        if place in self._utterance.taken or not (token.is_word or token.is_digits):
            return False
        if place in self._digits and not self._digits.isdisjoint((place - 1, place - 2)):
            return False
        return token.spaced or not self._utterance.text(place - 1).isalnum()

    def _is_spaced(self, place: int) -> bool:
        return place >= len(self._utterance.tokens) or self._utterance.tokens[place].spaced


def is_iban(code: str) -> bool:
    """Whether it has its country's length and form, and the remainder 1 by 97 (ISO 7064)."""
    if not IBAN_MIN <= len(code) <= IBAN_MAX or not _IBAN.fullmatch(code):
        return False
    number = int("".join(str(int(character, 36)) for character in code[4:] + code[:4]))
    return number % 97 == 1 and iban.is_valid(code, check_country=False)
