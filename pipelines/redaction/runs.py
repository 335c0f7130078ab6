"""Digits as they are written and spoken, joined to runs over blanks, marks and hesitations.

`four two, um, double four`, `forty two 42`, `4-2-4-2` and `4242` are all the digits that they say.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pipelines.redaction.finding import HESITATIONS
from pipelines.redaction.tokens import Plain, Token, words

_ONES = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
UNITS = {word: str(value) for value, word in enumerate(_ONES.split())}
ZEROS = frozenset({"oh", "o", "zero", "nought", "naught", "nil", "null"})
_EXCLAIMED = frozenset({"oh", "o"})
TEENS = {word: str(value) for value, word in enumerate(_TEENS.split(), 10)}
TENS = {word: str(value) for value, word in enumerate(_TENS.split(), 2)}
OTHER_UNITS = {
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zwo",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "nl": "nul een twee drie vier vijf zes zeven acht negen",
    "pt": "zero um dois três quatro cinco seis sete oito nove",
    "pl": "zero jeden dwa trzy cztery pięć sześć siedem osiem dziewięć",
}
"""Digits read one by one in other languages than English; larger number words are read in English only."""
UNDETERMINED = "und"
TIMES = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}

_TIGHT = frozenset("-.,/()…·_*|") | HESITATIONS
LOOSE = words(
    "and then okay ok no wait sorry dash hyphen space dot point slash again yes yeah right so i mean actually"
) | frozenset("!?;:")
_JOINING = words("and then dash hyphen space dot point slash again ; :")
_DIVIDING_OH = LOOSE - _JOINING
_GAP_TOKENS = 6

_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
DATES = re.compile(
    rf"(?<![\d.,/-]){_DAY}([./-]){_DAY}\1(?:(?:19|20)\d\d|\d\d)(?!\d|[./-]\d)"
    rf"|(?<![\d.,/-])(?:19|20)\d\d([./-]){_DAY}\2{_DAY}(?!\d|[./-]\d)"  # year first
)
AMOUNTS = re.compile(
    r"(?<!\d)\d{1,2}:\d\d(?::\d\d)?(?!\d)"  # a time
    r"|(?<![\d.])\d{1,9}(?:[.,]\d{1,12})?\s?%"
    r"|[$€£¥]\s?\d{1,9}(?:[.,]\d{1,3}){0,3}(?!\d)"  # an amount
    r"|(?<![\d.,-])(?<!\d )\d{1,9}[.,]\d{1,2}(?!\d|[.,-]\d| \d)"  # a decimal
    r"|(?<![\d.,-])\d{1,3}([.,])\d{3}(?:\1\d{3}){0,2}(?:[.,]\d{1,2})?(?!\d|[.,-]\d)"  # thousands, less than a card has
    r"|(?<![\d.])(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}(?![\d.])",  # an address of IPv4
)
"""Times, shares, amounts and the like. A number of which the groups are written so is none (`NumberRules.written_in`)."""


@dataclass(frozen=True, slots=True)
class Element:
    """What one or a few tokens say in digits: tokens `[first, end)`."""

    digits: str
    first: int
    end: int
    is_spoken: bool
    is_loose: bool
    """Whether words or the end of a sentence stand between it and the element before, not only marks and hesitations."""
    is_apart: bool
    """Whether any mark or hesitation stands there."""


@dataclass(frozen=True, slots=True)
class Run:
    """Elements that follow each other."""

    elements: tuple[Element, ...]

    @property
    def digits(self) -> str:
        """All digits."""
        return "".join(element.digits for element in self.elements)

    @property
    def first(self) -> int:
        """Its first token."""
        return self.elements[0].first

    @property
    def end(self) -> int:
        """The token behind it."""
        return self.elements[-1].end

    @property
    def is_spoken(self) -> bool:
        """Whether any of it stands there in words."""
        return any(element.is_spoken for element in self.elements)

    @property
    def groups(self) -> tuple[int, ...]:
        """Digits in each group; single digits that only blanks divide are one group."""
        lengths: list[int] = []
        single = False
        for element in self.elements:
            joined = lengths and not element.is_apart and single and len(element.digits) == 1
            single = len(element.digits) == 1 or element.is_spoken
            if joined:
                lengths[-1] += 1
            else:
                lengths.append(len(element.digits))
        return tuple(lengths)

    def parts(self) -> Iterator["Run"]:
        """The run divided where words stand between its elements."""
        yield from self._divided([element.is_loose for element in self.elements])

    def marked_parts(self) -> Iterator["Run"]:
        """The run divided where marks other than a dash, or words, stand between its elements."""
        yield from self._divided([element.is_loose or element.is_apart for element in self.elements])

    def _divided(self, cuts: Sequence[bool]) -> Iterator["Run"]:
        begin = 0
        for place in range(1, len(self.elements) + 1):
            if place == len(self.elements) or cuts[place]:
                yield Run(self.elements[begin:place])
                begin = place


def tokens_of_form(form: re.Pattern[str], of: Plain, tokens: Sequence[Token]) -> set[int]:
    """The tokens of all `DATES`, or of all `AMOUNTS`."""
    found: set[int] = set()
    spans = [(of.place(match.start()), of.place(match.end() - 1)) for match in form.finditer(of.text)]
    place = 0
    for first, last in spans:
        while place < len(tokens) and tokens[place].end <= first:
            place += 1
        while place < len(tokens) and tokens[place].start <= last:
            found.add(place)
            place += 1
    return found


class Reader:
    """Reads digits at a place among tokens, in the language `language` (as BCP 47; `und`: in all that are known)."""

    def __init__(self, tokens: Sequence[Token], language: str) -> None:
        self._tokens = tokens
        # A text that was sent as text does not say its language.
        spoken = OTHER_UNITS.values() if language == UNDETERMINED else [OTHER_UNITS.get(language, "")]
        others = [named for one in spoken for named in enumerate(one.split())]
        self._units = UNITS | {word: str(value % 10 if value < 10 else 2) for value, word in others}

    def text(self, place: int) -> str:
        """The token at a place, or nothing."""
        return self._tokens[place].text if 0 <= place < len(self._tokens) else ""

    def read(self, place: int) -> tuple[str, int, bool] | None:
        """The digits that begin there, the token behind them, and whether they are spoken; None where none do."""
        token = self._tokens[place]
        if token.is_digits:
            return token.text, place + 1, False
        if not token.is_word:
            return None
        if times := TIMES.get(token.text):
            return self._repeated(place + 1, times)
        if token.text in ZEROS:
            return ("0", place + 1, True) if token.text != "nil" else None
        return self._number(place)

    def _repeated(self, place: int, times: int) -> tuple[str, int, bool] | None:
        text = self.text(place)
        if text[:1].isdigit():
            return text[0] * times + text[1:], place + 1, True
        digit = "0" if text in ZEROS else self._units.get(text)
        return None if digit is None else (digit * times, place + 1, True)

    def _number(self, place: int) -> tuple[str, int, bool] | None:
        """A cardinal: `two`, `forty two`, `eight hundred`, `four thousand`, `two hundred and five`."""
        small = self._below_hundred(place)
        if small is None:
            return None
        value, end = small
        if len(value) > 1 and value[0] == "0":
            return value, end, True
        total = int(value)
        for word, factor in (("thousand", 1000), ("hundred", 100)):
            if self.text(end) == word and 0 < total < 100:
                return self._rest(total * factor, end + 1, factor)
        return value, end, True

    def _rest(self, total: int, end: int, factor: int) -> tuple[str, int, bool]:
        """What follows `hundred` or `thousand` and belongs to it; a single digit only behind `and`."""
        anded = self.text(end) == "and"
        more = self._below_hundred(end + anded)
        if more is not None and factor == 1000 and self.text(more[1]) == "hundred" and 0 < int(more[0]) < 10:
            digits, end, _ = self._rest(int(more[0]) * 100, more[1] + 1, 100)
            return str(total + int(digits)), end, True
        if more is not None and (anded or len(more[0]) == 2):
            return str(total + int(more[0])), more[1], True
        return str(total), end, True

    def _below_hundred(self, place: int) -> tuple[str, int] | None:
        text = self.text(place)
        if text in TEENS:
            return TEENS[text], place + 1
        if text in TENS:
            behind = place + 1 + (self.text(place + 1) == "-")
            unit = self._units.get(self.text(behind), "0")
            return (TENS[text] + unit, behind + 1) if unit != "0" else (TENS[text] + "0", place + 1)
        digit = self._units.get(text)
        return None if digit is None else (digit, place + 1)


def runs_of(tokens: Sequence[Token], reader: Reader, barred: Collection[int]) -> list[Run]:
    """Runs of digits, in order; the tokens `barred` are no digits and end a run."""
    found: list[list[Element]] = []
    place = 0
    while place < len(tokens):
        read = None if place in barred else reader.read(place)
        if read is None:
            place += 1
            continue
        digits, end, is_spoken = read
        gap = _gap(tokens, found[-1][-1].end, place, barred) if found else None
        if gap is None:
            found.append([])
        found[-1].append(Element(digits, place, end, is_spoken, *(gap or (False, False))))
        place = end
    return [Run(tuple(elements)) for elements in found if any(not _is_exclaimed(tokens, one) for one in elements)]


def _is_exclaimed(tokens: Sequence[Token], element: Element) -> bool:
    return tokens[element.first].text in _EXCLAIMED


def _gap(tokens: Sequence[Token], first: int, end: int, barred: Collection[int]) -> tuple[bool, bool] | None:
    """Whether what stands between two elements is loose, and apart; None where it divides them."""
    if end - first > _GAP_TOKENS:
        return None
    loose = apart = False
    exclaims = tokens[first - 1].text in _EXCLAIMED or tokens[end].text in _EXCLAIMED
    for place in range(first, end):
        token = tokens[place]
        if place in barred or (token.text not in _TIGHT and token.text not in LOOSE):
            return None
        if exclaims and token.text in _DIVIDING_OH:  # `oh no! oh no!` are no zeros
            return None
        loose = loose or token.text in LOOSE
        apart = apart or token.text != "-"
    return loose, apart
