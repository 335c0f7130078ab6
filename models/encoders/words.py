"""The input of the text encoder: a tidy transcript, and when each of its characters is said. Made without torch."""

import unicodedata
from dataclasses import dataclass

import numpy as np

from models.errors import TextInputError
from models.types import PARTICIPANTS, UNKNOWN_PARTICIPANT, Spoken, Timed

CHARACTERS_MAX = 4096
"""Of a longer text only so many characters are looked at: 128 word pieces are reached long before."""
UNKNOWN_MS = -1

_STRAIGHT_QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}


def prepare(text: str) -> str:
    """Tidy a text: Unicode NFC, straight quotes, single spaces, at most 4,096 characters.

    Raises:
        TextInputError: Nothing is left.
    """
    tidy = " ".join(unicodedata.normalize("NFC", text[: 2 * CHARACTERS_MAX]).translate(_STRAIGHT_QUOTES).split())
    if not tidy:
        raise TextInputError("the text holds no word: leave the text modality out.")
    return tidy[:CHARACTERS_MAX]


@dataclass(frozen=True, slots=True)
class SpokenText:
    """A tidy text, who says it (one of `PARTICIPANTS`), and what the same participant said before, oldest first."""

    text: str
    participant: str = UNKNOWN_PARTICIPANT
    before: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Characters of the text."""
        return len(self.text)


def prepare_spoken(spoken: Spoken) -> SpokenText:
    """`prepare` its text.

    Raises:
        TextInputError: Nothing is left, or nobody of `PARTICIPANTS` speaks.
    """
    if spoken.participant not in PARTICIPANTS:
        raise TextInputError(f"nobody is called {spoken.participant!r}: say one of {', '.join(PARTICIPANTS)}.")
    return SpokenText(prepare(spoken.transcript.text), spoken.participant, spoken.before)


def prepare_timed(spoken: Spoken) -> Timed[SpokenText]:
    """`prepare_spoken`, with the start of the word that each character belongs to.

    What stands between two words (a space, a word that the transcript has no time for) counts to the one before, or at the
    beginning to the first; without any word with times every time is -1.

    Raises:
        TextInputError: As `prepare_spoken`.
    """
    said = prepare_spoken(spoken)
    times_ms = np.full(len(said.text), UNKNOWN_MS, dtype=np.int32)
    place = 0
    for word in spoken.transcript.words:
        found = said.text.find(prepare(word.text), place) if word.text.strip() else -1
        if found >= 0:
            times_ms[found if place else 0 :] = word.start_ms
            place = found + 1
    return Timed(said, times_ms)
