"""The input of the text encoder: a tidy transcript, and when each of its characters is said. Made without torch."""

import unicodedata

import numpy as np

from models.errors import TextInputError
from models.types import Timed, Transcript

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


def prepare_transcript(transcript: Transcript) -> str:
    """`prepare` its text.

    Raises:
        TextInputError: Nothing is left.
    """
    return prepare(transcript.text)


def prepare_timed(transcript: Transcript) -> Timed[str]:
    """`prepare` its text, with the start of the word that each character belongs to.

    What stands between two words (a space, a word that the transcript has no time for) counts to the one before, or at the
    beginning to the first; without any word with times every time is -1.

    Raises:
        TextInputError: Nothing is left.
    """
    text = prepare(transcript.text)
    times_ms = np.full(len(text), UNKNOWN_MS, dtype=np.int32)
    place = 0
    for word in transcript.words:
        found = text.find(prepare(word.text), place) if word.text.strip() else -1
        if found >= 0:
            times_ms[found if place else 0 :] = word.start_ms
            place = found + 1
    return Timed(text, times_ms)
