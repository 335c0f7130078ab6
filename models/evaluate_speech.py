"""What a transcriber writes for every set of sounds whose words are known; the sets' names stand in `models.evaluate`."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from whisper.normalizers import EnglishTextNormalizer

from models.data import librivox as librivox_files
from models.data import non_speech, sound, turns
from models.data import ravdess as ravdess_files
from models.data.recordings import Recordings
from models.errors import EvaluateError
from models.recognition import WordsTask
from models.tasks import Answers
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcriber, Transcript

PIECE_MAX_S = 15.0
"""A longer sound is cut, as the segmenter of a call does."""
CUT_FROM_S = 5.0
QUIET_S = 0.2
BATCH = 8


def librivox(transcriber: Transcriber, data: Path, split: str) -> Answers:
    """Read speech: sound files with their words beside them."""
    return _words(transcriber, librivox_files.read(data, split))


def librivox_telephone(transcriber: Transcriber, data: Path, split: str) -> Answers:
    """The same through a telephone: 300-3400 Hz, 8 kHz, G.711."""
    return _words(transcriber, librivox_files.read(data, split), sound.telephone)


def ravdess(transcriber: Transcriber, data: Path, split: str) -> Answers:
    """RAVDESS's two sentences, spoken in eight emotions: `train`, `validation`, `test` or `all` actors."""
    return _words(transcriber, ravdess_files.read_words(data, split))


def ravdess_telephone(transcriber: Transcriber, data: Path, split: str) -> Answers:
    """The same through a telephone."""
    return _words(transcriber, ravdess_files.read_words(data, split), sound.telephone)


def sample(transcriber: Transcriber, data: Path, split: str) -> Answers:
    """The turns of recorded calls, as of the project's sample call."""
    return _words(transcriber, turns.read(data, split))


def sounds(transcriber: Transcriber, _data: Path, _split: str) -> Answers:
    """Generated sounds without a word: whatever is written is invented. Needs no data; every split is the same."""
    names, clips = zip(*non_speech.sounds(), strict=True)
    heard = [_heard(transcripts) for transcripts in _transcribed(transcriber, clips)]
    # As they are written: in brackets, too, a word is a word here.
    written = tuple(" ".join(word for word in text.split() if _is_word(word)) for text, _ in heard)
    task = WordsTask(names, ("",) * len(names), written, np.array([reliable for _, reliable in heard]))
    return Answers({"words": task}, 0)


def normalised(text: str) -> str:
    """An English text as words are counted in the field: lower case, no punctuation, brackets or fillers, numbers as digits.

    The rules are those of Radford et al. 2022 (arXiv:2212.04356), appendix C, by openai-whisper itself.
    """
    return " ".join(word for word in _normaliser()(text).split() if _is_word(word))


def pieces(samples: FloatArray) -> list[FloatArray]:
    """Sound (N,) in pieces of at most `PIECE_MAX_S`, cut in the middle of the quietest moments."""
    found, window = [], round(QUIET_S * SAMPLE_RATE_HZ)
    while len(samples) > PIECE_MAX_S * SAMPLE_RATE_HZ:
        first = round(CUT_FROM_S * SAMPLE_RATE_HZ)
        power = np.cumsum(np.square(samples[first : round(PIECE_MAX_S * SAMPLE_RATE_HZ)], dtype=np.float64))
        cut = first + int(np.argmin(power[window:] - power[:-window])) + window // 2
        found.append(samples[:cut])
        samples = samples[cut:]
    return [*found, samples]


def _words(
    transcriber: Transcriber, recordings: Recordings, line: Callable[[FloatArray], FloatArray] | None = None
) -> Answers:
    """Recordings whose labels are their words; those whose words the normaliser leaves out are skipped and counted."""
    said = [normalised(text) for text in recordings.label_names]
    rows = [row for row, label in enumerate(recordings.labels) if said[label]]
    if not rows:
        raise EvaluateError(f"none of {len(recordings.clips)} sounds has a word in its text: nothing to judge.")
    clips = [recordings.clips[row] if line is None else line(recordings.clips[row]) for row in rows]
    heard = [_heard(transcripts) for transcripts in _transcribed(transcriber, clips)]
    task = WordsTask(
        tuple(recordings.names[row] for row in rows),
        tuple(said[recordings.labels[row]] for row in rows),
        tuple(normalised(text) for text, _ in heard),
        np.array([reliable for _, reliable in heard]),
    )
    return Answers({"words": task}, recordings.skipped + len(recordings.clips) - len(rows))


def _transcribed(transcriber: Transcriber, clips: Sequence[FloatArray]) -> list[list[Transcript]]:
    """The transcripts of every clip's pieces, in order."""
    parts = [(row, piece) for row, clip in enumerate(clips) for piece in pieces(clip)]
    found: list[list[Transcript]] = [[] for _ in clips]
    for first in range(0, len(parts), BATCH):
        batch = parts[first : first + BATCH]
        for (row, _), transcript in zip(batch, transcriber.transcribe([piece for _, piece in batch]), strict=True):
            found[row].append(transcript)
    return found


def _heard(transcripts: Sequence[Transcript]) -> tuple[str, bool]:
    """The text of a sound, and whether it may be believed: no piece of it with words is unreliable, and there is one."""
    written = [one for one in transcripts if one.text.strip()]
    reliable = bool(written) and all(one.unreliable is None for one in written)
    return " ".join(one.text.strip() for one in written), reliable


def _is_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


@cache
def _normaliser() -> EnglishTextNormalizer:
    with warnings.catch_warnings():  # it leaves the file of its spellings to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        return EnglishTextNormalizer()
