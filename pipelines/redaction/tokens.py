"""A text as tokens: words, runs of digits and marks, each with its place in the original.

What looks alike becomes alike: digits of other scripts (Unicode Nd), full-width and enclosed forms (NFKC), other blanks and dashes;
characters without a width are dropped, so that none of them hides a number.
"""

import re
import unicodedata
from dataclasses import dataclass

_TOKEN = re.compile(r"[0-9]+|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\S")
_INVISIBLE = frozenset({"Cf", "Mn", "Me", "Cc"})
_BLANKS = frozenset("\t\n\r\v\f\N{BRAILLE PATTERN BLANK}")
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")  # of Hangul: letters without a width


def words(text: str) -> frozenset[str]:
    """The words of a list in one line."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Token:
    """A word in lower case, a run of ASCII digits, or one mark; it stands at `[start, end)` of the original text."""

    text: str
    start: int
    end: int
    spaced: bool
    """Whether a blank (or nothing) stands before it."""
    upper: bool = False
    """Whether it was written in capitals."""

    @property
    def is_digits(self) -> bool:
        """Whether it is a run of digits."""
        return "0" <= self.text[0] <= "9"

    @property
    def is_word(self) -> bool:
        """Whether it is made of letters."""
        return self.text[0].isalpha()

    @property
    def is_letter(self) -> bool:
        """Whether it is one letter of the Latin alphabet, as somebody spells it."""
        return len(self.text) == 1 and "a" <= self.text <= "z"


@dataclass(frozen=True, slots=True)
class Plain:
    """The text with look-alikes replaced; `places[i]` is where its character `i` stands in the original, `None` for: the same."""

    text: str
    places: tuple[int, ...] | None

    def place(self, index: int) -> int:
        """Where character `index` stands in the original."""
        return index if self.places is None else self.places[index]


def plain(text: str) -> Plain:
    """Replace look-alikes; linear in the length of `text`."""
    if text.isascii():
        return Plain(text, None)
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        alike = character if character.isascii() else _alike(character)
        characters.append(alike)
        places.extend([place] * len(alike))
    return Plain("".join(characters), tuple(places))


def _alike(character: str) -> str:
    category = unicodedata.category(character)
    if character in _BLANKS:
        return " "
    if category in _INVISIBLE or character in _FILLERS:
        return ""
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category.startswith("Z"):
        return " "
    if category == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    return unicodedata.normalize("NFKC", character) if category != "Lo" else character


def tokens_of(of: Plain) -> list[Token]:
    """The tokens of a text, in order."""
    found: list[Token] = []
    end = 0
    for match in _TOKEN.finditer(of.text):
        first, last = of.place(match.start()), of.place(match.end() - 1) + 1
        word = match.group()
        found.append(Token(word.lower(), first, last, match.start() > end or not found, word.isupper()))
        end = match.end()
    return found
