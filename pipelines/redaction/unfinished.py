"""Where in words that go on an item may have begun: a card of which half is read out, an address without its end."""

from collections.abc import Sequence

from pipelines.redaction.email import find_emails
from pipelines.redaction.finding import HESITATIONS, Utterance
from pipelines.redaction.runs import LOOSE, Reader
from pipelines.redaction.tokens import Token, plain, tokens_of

CAPITALS_MAX = 6
_RESTS = (" dot com", " at gmail dot com", " gmail dot com")
"""What may be still to come of an address."""


def begun_at(text: str, language: str) -> int:
    """The character from which on nothing should be shown yet; the length of the text where nothing has begun.

    Digits and spelled letters at the end may go on; so may words at the end that are joined as an address is.
    """
    tokens = tokens_of(plain(text))
    first = _number_begins(tokens, Reader(tokens, language))
    begins = [tokens[first].start if first < len(tokens) else len(text)]
    for rest in _RESTS:
        utterance = Utterance(tokens_of(plain(text + rest)))
        find_emails(utterance)
        begins += [span.start for span in utterance.spans if span.end > len(text) and _is_joined(text, span.start)]
    return min(begins)


def _number_begins(tokens: Sequence[Token], reader: Reader) -> int:
    """The first token of digits, letters and what stands between them at the end; behind the last where there are none."""
    parts: set[int] = set()
    place = 0
    while place < len(tokens):
        read = reader.read(place)
        end = place + 1 if read is None else read[1]
        if (
            read is not None
            or tokens[place].is_letter
            or (tokens[place].upper and len(tokens[place].text) <= CAPITALS_MAX)
        ):
            parts.update(range(place, end))
        place = end
    first = place = len(tokens)
    while place and (place - 1 in parts or _is_between(tokens[place - 1])):
        place -= 1
        first = place if place in parts else first
    return first


def _is_between(token: Token) -> bool:
    return not token.text.isalnum() or token.text in HESITATIONS or token.text in LOOSE


def _is_joined(text: str, start: int) -> bool:
    """Whether more than one plain word stands there."""
    return len(tokens_of(plain(text[start:]))) > 1
