"""OpenAI Whisper (Radford et al. 2022, arXiv:2212.04356), a batch of utterances at a time, with word times."""

import pickle
import string
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper
from whisper.decoding import DecodingOptions
from whisper.timing import find_alignment, merge_punctuations
from whisper.tokenizer import get_tokenizer

from models.errors import WhisperError
from models.hashing import sha256_of
from models.types import SAMPLE_RATE_HZ, FloatArray, Transcript, Word

WINDOW_S = 30
"""Whisper's encoder has positions for exactly this long; shorter sound is padded with silence."""
MS_PER_MEL_FRAME = 10
LENGTH_MIN_S = 0.1

# The thresholds of whisper.transcribe (paper, section 4.5).
NO_SPEECH_PROBABILITY = 0.6
MEAN_LOG_PROBABILITY = -1.0
COMPRESSION_RATIO = 2.4

_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001  whisper.timing's own defaults


class WhisperTranscriber:
    """Whisper behind the `Transcriber` contract: greedy decoding of a whole batch, words aligned by cross attention.

    The batch is one forward pass, so results do not depend on who shares it (up to rounding). A word's confidence is
    the mean probability of its tokens. One batch at a time; calls from several threads queue.

    Args:
        model: As `load_whisper` returns it.
        name: Model name or file name, for `engine`.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._model = model.eval()
        self._name = name
        self._language = None if model.is_multilingual else "en"
        self._lock = threading.Lock()

    @property
    def engine(self) -> str:
        """Model and the version of openai-whisper."""
        return f"whisper-{self._name}@{version('openai-whisper')}"

    def transcribe(self, batch: Sequence[FloatArray]) -> list[Transcript]:
        """Transcribe a batch.

        Args:
            batch: Mono samples (N,) at 16 kHz in [-1, 1]; not finite samples count as silence.

        Returns:
            A transcript each, in order; `no_speech` and `repetition` name the gate a text failed, and the text stays.

        Raises:
            WhisperError: For samples that are not one-dimensional or longer than 30 s.
        """
        for samples in batch:
            if samples.ndim != 1 or len(samples) > WINDOW_S * SAMPLE_RATE_HZ:
                raise WhisperError(
                    f"samples of shape {samples.shape} are not one utterance: send mono (N,), at most {WINDOW_S} s"
                )
        spoken = [i for i, samples in enumerate(batch) if len(samples) >= LENGTH_MIN_S * SAMPLE_RATE_HZ]
        transcripts = [Transcript("", self._language or "en", (), self.engine, "no_speech") for _ in batch]
        if spoken:
            with self._lock, torch.inference_mode():
                for i, transcript in zip(spoken, self._decode([batch[i] for i in spoken]), strict=True):
                    transcripts[i] = transcript
        return transcripts

    def _decode(self, batch: Sequence[FloatArray]) -> list[Transcript]:
        model = self._model
        mel_BMT = torch.stack([mel_of(samples, model.dims.n_mels) for samples in batch]).to(model.device)  # noqa: N806  shape suffix
        options = DecodingOptions(language=self._language, without_timestamps=True, fp16=model.device.type == "cuda")
        results = whisper.decode(model, mel_BMT, options)
        return [
            self._transcript(result, mel_MT, len(samples))
            for result, mel_MT, samples in zip(results, mel_BMT, batch, strict=True)
        ]

    def _transcript(self, result: Any, mel_MT: torch.Tensor, length: int) -> Transcript:  # noqa: N803  shape suffix
        length_ms = length * 1000 // SAMPLE_RATE_HZ
        tokenizer = get_tokenizer(
            self._model.is_multilingual, num_languages=self._model.num_languages, language=result.language
        )
        tokens = [token for token in result.tokens if token < tokenizer.eot]
        frames = max(length_ms // MS_PER_MEL_FRAME, 2)
        aligned = find_alignment(self._model, tokenizer, tokens, mel_MT, frames) if tokens else []
        merge_punctuations(aligned, _PREPENDED, _APPENDED)
        words = tuple(_word(timing, length_ms) for timing in aligned if timing.word.strip())
        reason = unreliable_reason(result.text, result.no_speech_prob, result.avg_logprob, result.compression_ratio)
        return Transcript(result.text, result.language, words, self.engine, reason)


def _word(timing: Any, length_ms: int) -> Word:
    start_ms = min(round(timing.start * 1000), length_ms)
    end_ms = min(max(round(timing.end * 1000), start_ms), length_ms)
    return Word(timing.word.strip(), start_ms, end_ms, float(min(max(timing.probability, 0.0), 1.0)))


def mel_of(samples: FloatArray, mels: int) -> torch.Tensor:
    """Log-mel spectrogram (mels, 3000) of one utterance, padded to 30 s."""
    clean = np.clip(np.nan_to_num(samples.astype(np.float32), nan=0.0), -1.0, 1.0)
    return whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(clean)), mels)  # type: ignore[no-any-return]  # whisper ships no types


def unreliable_reason(text: str, no_speech: float, mean_log_probability: float, compression: float) -> str | None:
    """The gate that a text fails, or None when it may be believed.

    Args:
        text: What was decoded.
        no_speech: Probability in [0, 1] of the no-speech token.
        mean_log_probability: Mean log probability of the tokens, <= 0.
        compression: Length of the text over its length by zlib; a loop compresses well.
    """
    if not text.strip(string.punctuation + string.whitespace):
        return "no_speech"
    if no_speech > NO_SPEECH_PROBABILITY and mean_log_probability < MEAN_LOG_PROBABILITY:
        return "no_speech"
    if compression > COMPRESSION_RATIO:
        return "repetition"
    return "low_confidence" if mean_log_probability < MEAN_LOG_PROBABILITY else None


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
        model: Any = whisper.Whisper(whisper.ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, WhisperError):
            raise
        raise WhisperError(f"{path} is no Whisper checkpoint ({type(error).__name__}: {str(error)[:200]})") from error
    if name in whisper._ALIGNMENT_HEADS:  # noqa: SLF001  the published heads have no public name
        model.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])  # noqa: SLF001
    model.to(device)
    return WhisperTranscriber(model, name)
