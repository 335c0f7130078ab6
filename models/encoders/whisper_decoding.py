"""What both engines of Whisper share: the input they take, the language, words and their times, and the gates. Without torch."""

import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.encoders.whisper_mel import HOP_SAMPLES
from models.errors import WhisperError
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcript, Word

WINDOWS_S = (15, 20, 30)
"""An utterance and `PAUSE_S` of silence are heard in the shortest that holds them. Whisper was trained on 30 s, most of which is
silence when an utterance is 4 s long, and an utterance costs a third in 15 s. The card has the words that each window gets."""
PAUSE_S = 3
"""Without silence behind it, the decoder does not hear that a sentence is over, and says it again."""
WINDOW_S = WINDOWS_S[-1]
"""What a shorter window leaves unsure is heard again in, whole."""
LENGTH_MIN_S = 0.1
SILENCE_PEAK = 1e-3
"""-60 dB of full scale: of what never reaches it Whisper invents words."""
BEAM = 5
"""Texts under way in the search, as in the paper (section 4.5): greedily, or with two, texts loop in a short window (the card)."""
TOKENS_MAX = 224
"""Half of the decoder's positions, as in openai-whisper."""
MEDIAN_FRAMES = 7
"""Of the filter over attention weights that words are aligned by (openai-whisper's timing.py)."""

ENGLISH = "en"
LANGUAGE_PROBABILITY = 0.7
"""Below it a short or unclear utterance is taken for English, which calls are in: Whisper guesses among 99 languages, and hears Chinese (0.57)
in a "Bye bye." of 0.7 s."""

# The thresholds of whisper.transcribe (paper, section 4.5).
MEAN_LOG_PROBABILITY = -1.0
COMPRESSION_RATIO = 2.4

# Stricter than whisper.transcribe's (0.6, and a mean below -1), which lets through every fifth generated sound; the card says on what they were set.
NO_SPEECH_PROBABILITY = 0.41
SURE_LOG_PROBABILITY = -0.4
"""A text as sure as this is speech in spite of the no-speech token."""
AGAIN_WORDS = 3
"""So many words or more, said twice in a row, may be a decoder that goes round."""
CHARACTERS_PER_S, UNCOUNTED_S = 0.6, 3.0
"""Nobody who speaks says less, after a few seconds for a "Yes.": half a minute of music is a "Thank you." now and then."""

SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces between words, by openai-whisper's tokenizer.py."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of one word: their text, how many, start and end in seconds, and the mean of their probabilities."""

    text: str
    tokens: int
    start_s: float
    end_s: float
    probability: float


def heard(batch: Sequence[FloatArray]) -> list[int]:
    """The places of the utterances that are long and loud enough to hold a word.

    Raises:
        WhisperError: For samples that are not one-dimensional or longer than 30 s.
    """
    for samples in batch:
        if samples.ndim != 1 or len(samples) > WINDOW_S * SAMPLE_RATE_HZ:
            raise WhisperError(
                f"samples of shape {samples.shape} are not one utterance: send mono (N,), at most {WINDOW_S} s"
            )
    return [
        place
        for place, samples in enumerate(batch)
        if len(samples) >= LENGTH_MIN_S * SAMPLE_RATE_HZ
        and np.abs(samples).max(initial=0, where=np.isfinite(samples)) >= SILENCE_PEAK
    ]


def clean(samples: FloatArray) -> FloatArray:
    """Samples clipped to [-1, 1]; those that are not finite are silence."""
    return np.clip(np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)


def window_s(samples: FloatArray) -> int:
    """Length in seconds of the first window that an utterance is heard in."""
    needed_s = len(samples) / SAMPLE_RATE_HZ + PAUSE_S
    return next((seconds for seconds in WINDOWS_S if needed_s <= seconds), WINDOW_S)


def frames(samples: FloatArray) -> int:
    """How many rows of the log-mel are not padding: where words may lie."""
    return max(len(samples) // HOP_SAMPLES, 2)


def language_of(probabilities: Mapping[str, float]) -> str:
    """The language to decode in: the likeliest, or English where none is likely."""
    language = max(probabilities, key=probabilities.__getitem__)
    return language if probabilities[language] >= LANGUAGE_PROBABILITY else ENGLISH


def words_of(pieces: Iterable[Piece], language: str, samples: FloatArray) -> tuple[Word, ...]:
    """Join pieces to words, which a space divides, or in languages without spaces each piece but punctuation is one."""
    joined: list[Piece] = []
    for piece in pieces:
        apart = piece.text.startswith(" ") or (language in SPACELESS and piece.text not in string.punctuation)
        if joined and not apart:
            before = joined[-1]
            count = before.tokens + piece.tokens
            mean = (before.probability * before.tokens + piece.probability * piece.tokens) / count
            joined[-1] = replace(
                before, text=before.text + piece.text, tokens=count, end_s=piece.end_s, probability=mean
            )
        else:
            joined.append(piece)
    length_ms = len(samples) * 1000 // SAMPLE_RATE_HZ
    return tuple(_word(piece, length_ms) for piece in joined if piece.text.strip())


def _word(piece: Piece, length_ms: int) -> Word:
    start_ms = min(round(piece.start_s * 1000), length_ms)
    end_ms = min(max(round(piece.end_s * 1000), start_ms), length_ms)
    return Word(piece.text.strip(), start_ms, end_ms, float(min(max(piece.probability, 0.0), 1.0)))


def transcribe(
    batch: Sequence[FloatArray],
    decode: Callable[[Sequence[FloatArray], int], Sequence[Transcript]],
    size: int,
    engine: str,
) -> list[Transcript]:
    """A transcript of each utterance, in order; those too short or too quiet for a word are not decoded.

    Args:
        batch: As `heard` takes it.
        decode: At most `size` utterances and the length of the window to hear them in, in seconds, to a transcript each, in order.
        size: So many are decoded together, so that memory stays bounded.
        engine: For the transcripts of what is not decoded.

    Raises:
        WhisperError: As `heard`.
    """
    transcripts = [Transcript("", ENGLISH, (), engine, "no_speech") for _ in batch]

    def decoded(seconds: int, places: Sequence[int]) -> Iterator[tuple[int, Transcript]]:
        for first in range(0, len(places), size):
            rows = places[first : first + size]
            yield from zip(rows, decode([batch[row] for row in rows], seconds), strict=True)

    windows = {row: window_s(batch[row]) for row in heard(batch)}
    for seconds in WINDOWS_S:
        for row, transcript in decoded(seconds, [row for row, window in windows.items() if window == seconds]):
            transcripts[row] = transcript
    again = [row for row, window in windows.items() if window < WINDOW_S and is_unsure(transcripts[row])]
    for row, transcript in decoded(WINDOW_S, again):
        # Somebody may say a thing twice: what was believed is not given up for what is not.
        if transcript.unreliable is None or transcripts[row].unreliable is not None:
            transcripts[row] = transcript
    return transcripts


def is_unsure(transcript: Transcript) -> bool:
    """Whether a text may be the fault of a short window: it goes round, or Whisper is not sure of it.

    Not what is no speech: of that a short window says so less often.
    """
    text = transcript.text.lower()
    spaced = text.split() if transcript.language not in SPACELESS else text
    words = [word.strip(string.punctuation) for word in spaced]
    return transcript.unreliable in ("repetition", "low_confidence") or any(
        words[first : first + count] == words[first + count : first + 2 * count]
        for count in range(AGAIN_WORDS, len(words) // 2 + 1)
        for first in range(len(words) - 2 * count + 1)
    )


def unreliable_reason(
    text: str, no_speech: float, mean_log_probability: float, compression: float, samples: FloatArray
) -> str | None:
    """The gate that a text fails, or None when it may be believed.

    Args:
        text: What was decoded.
        no_speech: Probability in [0, 1] of the no-speech token.
        mean_log_probability: Mean log probability of the tokens, <= 0.
        compression: Length of the text over its length by zlib; a loop compresses well.
        samples: The utterance (N,) at 16 kHz.
    """
    said = text.strip(string.punctuation + string.whitespace)
    if not said or len(said) < CHARACTERS_PER_S * (len(samples) / SAMPLE_RATE_HZ - UNCOUNTED_S):
        return "no_speech"
    if no_speech > NO_SPEECH_PROBABILITY and mean_log_probability < SURE_LOG_PROBABILITY:
        return "no_speech"
    if compression > COMPRESSION_RATIO:
        return "repetition"
    return "low_confidence" if mean_log_probability < MEAN_LOG_PROBABILITY else None
