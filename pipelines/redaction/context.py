"""What the words around a number say that it is."""

from itertools import pairwise
from typing import Literal

from pipelines.redaction.finding import Utterance, is_said
from pipelines.redaction.ids import IdRule
from pipelines.redaction.runs import Run
from pipelines.redaction.tokens import words

About = Literal["card", "reference", "phone"]
DIGITS_LOOKED_AT = 19
LOOK_BACK, LOOK_AHEAD = 8, 4

_CARD_WORDS = words("card cards visa mastercard amex maestro debit credit")
_PHONE_WORDS = words(
    "phone telephone tel mobile cell cellphone landline fax call called calling ring reach text whatsapp dial contact "
    "telefon handy téléphone portable teléfono móvil telefono cellulare telefoon nummer hotline"
)
_REFERENCE_WORDS = words(
    "order orders reference ref case ticket booking invoice customer contract serial tracking parcel article item "
    "version model flight policy bestellung auftrag commande pedido account member membership meter "
    "claim incident confirmation reservation res record locator request complaint application bag baggage id #"
)


def about(utterance: Utterance, run: Run) -> About | None:
    """What the nearest word before the run, or else close behind it, says that it is: a card, a reference, a phone."""
    behind = range(run.end, min(run.end + LOOK_AHEAD, len(utterance.tokens)))
    for place in (*range(run.first - 1, max(run.first - 1 - LOOK_BACK, -1), -1), *behind):
        word = utterance.text(place)
        if word in _CARD_WORDS:
            return "card"
        if word in _REFERENCE_WORDS:
            return "reference"
        if word in _PHONE_WORDS or (
            word == "number" and utterance.text(place - 1) in ("my", "the", "best", "new", "old")
        ):
            return "phone"
    return None


def is_alone(utterance: Utterance, run: Run) -> bool:
    """Whether the utterance says nothing else, and it is neither counting nor a year nor a time."""
    inside = sum(is_said(token.text) for token in utterance.tokens[run.first : run.end])
    if utterance.said_count > inside:
        return False
    if len(run.elements) > 2:
        return not _counts(run)
    if len(run.digits) > 4:
        return True
    first, last = int(run.digits[:2]), int(run.digits[2:])
    is_time = len(run.elements) == 2 and first <= 24 and last < 60
    return not (is_time or first in (19, 20))


def _counts(run: Run) -> bool:
    """Whether somebody counts: `one, two, three, four`, `ten nine eight`."""
    values = [int(element.digits[:DIGITS_LOOKED_AT]) for element in run.elements]
    steps = {after - before for before, after in pairwise(values)}
    return steps in ({1}, {-1})


def named(utterance: Utterance, rule: IdRule) -> bool:
    """Whether the utterance says what the number is called, or may say it yet."""
    return utterance.goes_on or any(utterance.says(word) for word in rule.words)
