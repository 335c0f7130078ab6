"""PocketSphinx 5 with the US English model of its wheel: the transcriber that works with no network and no GPU.

Every utterance is decoded from the same start state, so a transcript does not depend on what was decoded before.
"""

import re
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from pocketsphinx import Decoder

from models.errors import PocketSphinxError
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcript, Word

FRAMES_PER_S = 100
LENGTH_MIN_S = 0.15
LENGTH_MAX_S = 30.0
"""Longest utterance that is decoded; the segmenter cuts at 15 s."""

SILENCE_RMS = 1e-3
"""-60 dB of full scale; below it the decoder hallucinates words."""
CONFIDENCE_MIN = 0.4
"""Mean word posterior below which the whole text is marked."""
WORD_MAX_S = 2.5
"""A longer word is a tone or a hum that the nearest phone was stretched over."""

# One pass over the tree lexicon, then the best path through the word lattice (whose posteriors are the confidences).
# Without the flat pass and with few active states the worst case is bounded, at little cost in words.
SEARCH = {"fwdflat": False, "bestpath": True, "topn": 2, "maxhmmpf": 3000, "maxwpf": 20}

_PRONUNCIATION = re.compile(r"\(\d+\)$")


class PocketSphinxTranscriber:
    """CMU PocketSphinx (Huggins-Daines et al. 2006, ICASSP) behind the `Transcriber` contract.

    One utterance at a time, on one core; calls from several threads queue. A word's confidence is its posterior in
    the word lattice, which tells how well it stands against the words considered beside it, not how often such
    words are right.

    Raises:
        PocketSphinxError: When the wheel's model cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            self._decoder: Any = Decoder(loglevel="FATAL", **SEARCH)
        except (RuntimeError, ValueError, OSError) as error:
            raise PocketSphinxError(
                f"pocketsphinx cannot load the model of its wheel ({error}); reinstall it: uv sync --reinstall-package pocketsphinx"
            ) from error
        self._lock = threading.Lock()

    @property
    def engine(self) -> str:
        """Name, version and model."""
        return f"pocketsphinx-{version('pocketsphinx')}/en-us"

    def transcribe(self, batch: Sequence[FloatArray]) -> list[Transcript]:
        """Decode each utterance by itself.

        Args:
            batch: Mono samples (N,) at 16 kHz in [-1, 1]; not finite samples count as silence.

        Returns:
            A transcript each, in order; `no_speech` for silence and for sound without a word, `low_confidence` for
            words of low posterior, or that last too long to be words.

        Raises:
            PocketSphinxError: For samples that are not one-dimensional or longer than `LENGTH_MAX_S`.
        """
        return [self._one(samples) for samples in batch]

    def _one(self, samples: FloatArray) -> Transcript:
        if samples.ndim != 1 or len(samples) > LENGTH_MAX_S * SAMPLE_RATE_HZ:
            raise PocketSphinxError(
                f"samples of shape {samples.shape} are not one utterance: send mono (N,), at most {LENGTH_MAX_S:g} s"
            )
        clean = np.clip(np.nan_to_num(samples.astype(np.float32), nan=0.0), -1.0, 1.0)
        if len(clean) < LENGTH_MIN_S * SAMPLE_RATE_HZ or float(np.sqrt(np.mean(clean**2))) < SILENCE_RMS:
            return Transcript("", "en", (), self.engine, "no_speech")
        with self._lock:
            words = self._decode((clean * 32767).astype("<i2").tobytes(), round(1000 * len(clean) / SAMPLE_RATE_HZ))
        return Transcript(" ".join(word.text for word in words), "en", words, self.engine, unreliable_reason(words))

    def _decode(self, pcm: bytes, length_ms: int) -> tuple[Word, ...]:
        # The noise tracker and the cepstral mean carry over from one utterance to the next unless made anew (0.1 ms).
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(pcm, full_utt=True)
        finally:
            self._decoder.end_utt()
        found = []
        for segment in self._decoder.seg() or ():
            if segment.word[0] in "<[+":  # <sil>, [NOISE], ++COUGH++
                continue
            text = _PRONUNCIATION.sub("", segment.word)
            start_ms = min(segment.start_frame * 1000 // FRAMES_PER_S, length_ms)
            end_ms = min((segment.end_frame + 1) * 1000 // FRAMES_PER_S, length_ms)
            found.append(Word(text, start_ms, end_ms, min(max(float(segment.prob), 0.0), 1.0)))
        return tuple(found)


def unreliable_reason(words: Sequence[Word]) -> str | None:
    """The gate that the words of one utterance fail, or None when they may be believed."""
    if not words:
        return "no_speech"
    if max(word.end_ms - word.start_ms for word in words) > 1000 * WORD_MAX_S:
        return "low_confidence"
    return "low_confidence" if np.mean([word.confidence for word in words]) < CONFIDENCE_MIN else None
