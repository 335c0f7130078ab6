"""Numbers without letters: cards (ISO/IEC 7812), national numbers, telephone numbers, and long runs that are none of these."""

from collections.abc import Collection, Iterator, Sequence

from stdnum import luhn

from pipelines.redaction.context import LOOK_BACK, about, is_alone, named
from pipelines.redaction.finding import Kind, Utterance
from pipelines.redaction.ids import RULES, IdRule
from pipelines.redaction.phones import Phones
from pipelines.redaction.runs import Element, Run

CARD_MIN, CARD_MAX = 12, 19
VERIFICATION_CODE = (3, 4)
UNKNOWN_MIN = 13
"""So many digits that are neither card nor anything else are taken too: a card of which one digit was misheard."""
KEPT_OF_CARD = 6
"""PCI DSS 4.0, requirement 3.4.1: the first six digits of a card may be kept."""
ALONE_MIN = 4
"""An utterance of nothing but so many digits may be a group of a card that is read out with pauses."""
ELEMENTS_MAX = 1024
"""Of a longer run nobody looks for the card in it: it is taken as it is."""

_CODE_WORDS = ("cvv", "cvc", "cv2", "cvv2", "cid", "security code", "verification code", "on the back")


class NumberRules:
    """Takes the numbers of one text: cards, national numbers and telephone numbers of `countries`, and long runs."""

    def __init__(self, utterance: Utterance, countries: Sequence[str]) -> None:
        self._utterance = utterance
        self._rules = [rule for rule in RULES if rule.is_digits and rule.country in countries]
        self._phones = Phones(countries)

    def written_in(self, amounts: Collection[int], runs: Sequence[Run]) -> set[int]:
        """The tokens of `runs` that look like `amounts` and are groups of a card, `4,242 4,242 4,242 4,242`, or one named number, `123,456,789`."""
        found: set[int] = set()
        forms = [rule.form for rule in self._rules if named(self._utterance, rule)]
        for run in runs:
            if len(run.elements) > ELEMENTS_MAX:
                found.update(range(run.first, run.end))
            elif any(place in amounts for place in range(run.first, run.end)):
                for digits, first, end in _stretches(run.elements):
                    is_long = len(digits) > CARD_MIN and is_card(digits)
                    if is_long or (self._is_glued(first, end) and any(form.fullmatch(digits) for form in forms)):
                        found.update(range(first, end))
        return found

    def _is_glued(self, first: int, end: int) -> bool:
        return not any(token.spaced for token in self._utterance.tokens[first + 1 : end])

    def find(self, runs: Sequence[Run]) -> None:
        """Take every run, or part of one, that is a number of these kinds."""
        had_card = False
        for run in runs:
            if len(run.digits) < min(VERIFICATION_CODE):
                continue
            kind = self._whole(run)
            if kind is None and self._parts(run):
                continue
            kind = kind or self._long(run) or self._verification(run, had_card=had_card)
            had_card = had_card or kind == "card"
            self._take(kind, run)

    def _take(self, kind: Kind | None, run: Run) -> None:
        """Take a run with the `+` before it, or the bracket that it closes."""
        if kind is not None:
            before = self._utterance.text(run.first - 1)
            closes = before == "(" and ")" in self._utterance.said(run.first, run.end)
            self._utterance.take(kind, run.first - (closes or before in ("+", "plus")), run.end)

    def _whole(self, run: Run) -> Kind | None:
        """What the run is as a whole."""
        if any(self._is_id(run, rule) for rule in self._rules):
            return "id"
        if is_card(run.digits):
            return "card"
        return "phone" if self._phones.is_phone(self._utterance, run) else None

    def _is_id(self, run: Run, rule: IdRule) -> bool:
        if not rule.form.fullmatch(run.digits):
            return False
        if named(self._utterance, rule):  # of which one digit may have been misheard
            return True
        is_formed = rule.is_sure or run.groups == rule.groups
        return is_formed and rule.check(run.digits) and about(self._utterance, run) is None

    def _parts(self, run: Run) -> bool:
        """Take the parts of a run if each is a number of its own; those of one shorter than a card, if one is."""
        for parts in (list(run.parts()), list(run.marked_parts())):
            kinds = [self._whole(part) for part in parts] if len(parts) > 1 else []
            if any(kinds) and (all(kinds) or len(run.digits) < UNKNOWN_MIN):
                for part, kind in zip(parts, kinds, strict=True):
                    self._take(kind, part)
                return True
        return False

    def _long(self, run: Run) -> Kind | None:
        digits = len(run.digits)
        if digits >= CARD_MIN and _holds_card(run):
            return "card"
        said = about(self._utterance, run)
        is_misheard = digits >= UNKNOWN_MIN and (said != "reference" or len(run.elements) > ELEMENTS_MAX)
        is_begun = digits > KEPT_OF_CARD and said == "card"
        is_group = digits >= ALONE_MIN and is_alone(self._utterance, run)
        return "number" if is_misheard or is_begun or is_group else None

    def _verification(self, run: Run, *, had_card: bool) -> Kind | None:
        if len(run.digits) not in VERIFICATION_CODE:
            return None
        before = f" {self._utterance.said(run.first - LOOK_BACK, run.first)} "
        asked = any(f" {word} " in before for word in _CODE_WORDS) or (had_card and " code " in before)
        return "card" if asked else None


def is_card(digits: str) -> bool:
    """Whether 12 to 19 digits can be a card's: Luhn's sum; those of 12 are Maestro's, which begin with 5 or 6."""
    if not CARD_MIN <= len(digits) <= CARD_MAX or digits[0] == "0":
        return False
    return (len(digits) > CARD_MIN or digits[0] in "56") and luhn.is_valid(digits)


def _holds_card(run: Run) -> bool:
    """Whether a card's digits begin and end with elements of the run."""
    return any(is_card(digits) for digits, _, _ in _stretches(run.elements[:ELEMENTS_MAX]))


def _stretches(elements: Sequence[Element]) -> Iterator[tuple[str, int, int]]:
    """Digits of elements that follow each other, at most as many as a card has, and their tokens `[first, end)`."""
    for place, first in enumerate(elements):
        digits = ""
        for element in elements[place : place + CARD_MAX]:
            digits += element.digits
            if len(digits) > CARD_MAX:
                break
            yield digits, first.first, element.end
