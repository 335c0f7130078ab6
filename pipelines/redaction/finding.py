"""What the finders share: an utterance under examination, and what was found in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from pipelines.redaction.tokens import Token, words

Kind = Literal["card", "iban", "email", "phone", "id", "number", "name"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What can be replaced; `number` is a long run of digits that is none of the others: a part of a card, or one misheard."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """An item at characters `[start, end)` of the original text."""

    start: int
    end: int
    kind: Kind


HESITATIONS = words("um uh er erm ehm eh ah hmm hm mm äh ähm euh")
_OPENERS = (
    words(
        "okay ok so yes yeah yep right and then it's it is that's that the sure well please thanks thank you sorry no "
        "i said again alright all number"
    )
    | HESITATIONS
)
"""What may stand beside a number without saying anything about it."""


def is_said(word: str) -> bool:
    """Whether a token says more than that one begins or hesitates."""
    return word[0].isalnum() and word not in _OPENERS


@dataclass(slots=True)
class Utterance:
    """Tokens of one utterance, and which of them are part of an item already."""

    tokens: Sequence[Token]
    goes_on: bool = False
    """Whether more may follow: what the numbers are called, above all."""
    taken: set[int] = field(default_factory=set)
    spans: list[Span] = field(default_factory=list)
    said_in_all: str = field(init=False)
    """All words in lower case, a blank before each and behind the last."""
    said_words: dict[str, bool] = field(default_factory=dict)
    """Answers of `says`."""
    said_count: int = field(init=False)
    """How many of the tokens say something (`is_said`)."""

    def __post_init__(self) -> None:
        """Look through the tokens once, so that no rule does for every number."""
        self.said_in_all = " ".join(["", *(token.text for token in self.tokens), ""])
        self.said_count = sum(is_said(token.text) for token in self.tokens)

    def take(self, kind: Kind, first: int, end: int) -> None:
        """Tokens `[first, end)` are an item."""
        self.taken.update(range(first, end))
        self.spans.append(Span(self.tokens[first].start, self.tokens[end - 1].end, kind))

    def said(self, first: int, end: int) -> str:
        """The words from `first` to `end` with one blank between; those that do not exist are left out."""
        return " ".join(token.text for token in self.tokens[max(first, 0) : max(end, 0)])

    def says(self, begin: str) -> bool:
        """Whether a word, or some words, begin so."""
        if begin not in self.said_words:
            self.said_words[begin] = f" {begin}" in self.said_in_all
        return self.said_words[begin]

    def text(self, place: int) -> str:
        """The token at a place, or nothing."""
        return self.tokens[place].text if 0 <= place < len(self.tokens) else ""
