"""The input of the voice encoder: an utterance levelled and trimmed, as Whisper's log-mel. Made where the sound is, so without torch."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from models.encoders.whisper_mel import HOP_SAMPLES, WINDOW_SAMPLES, log_mel
from models.errors import AudioInputError
from models.types import SAMPLE_RATE_HZ, FloatArray, Timed

SOUND_MIN_S = 0.2
SOUND_MAX_S = 20.0
SILENCE_RMS = 1e-4
"""-80 dBFS: below it not even a quiet telephone line."""
TRIM_DB = 33.0
LEVEL_RMS = 0.05

LogMel = NDArray[np.float16]


def prepare(samples: FloatArray) -> LogMel:
    """Turn an utterance into the network's input; this runs where the samples are.

    Leading and trailing parts more than 33 dB below the loudest 10 ms are cut off, and the level is normalised, so
    neither matters. Of more than 20 s the first 20 s count. Samples beyond [-1, 1] are clipped.

    Args:
        samples: Mono float32 (N,) at 16 kHz.

    Returns:
        What openai-whisper's `log_mel_spectrogram` gives of the sound that is left, without the padding to 30 s: float16
        (T, 80), one row per 10 ms, T from 20 to 2000.

    Raises:
        AudioInputError: Another shape, NaN or infinity, silence, or less than 0.2 s of sound.
    """
    return _levelled(_sound(samples))


def prepare_timed(samples: FloatArray) -> Timed[LogMel]:
    """`prepare`, with the time of each row: what was cut off in front is counted.

    Raises:
        AudioInputError: As `prepare`.
    """
    sound = _sound(samples)
    prepared = _levelled(sound)
    first = bounds(sound)[0]
    return Timed(prepared, ((first + HOP_SAMPLES * np.arange(len(prepared))) * 1000 // SAMPLE_RATE_HZ).astype(np.int32))


def probe() -> LogMel:
    """Half a second of a tone, prepared."""
    return prepare(np.sin(np.arange(SAMPLE_RATE_HZ // 2)).astype(np.float32))


def _sound(samples: FloatArray) -> FloatArray:
    if samples.ndim != 1:
        raise AudioInputError(f"samples must be mono (N,), not {samples.shape}.")
    sound = samples[: int(SOUND_MAX_S * SAMPLE_RATE_HZ)].astype(np.float32)
    if not np.isfinite(sound).all():
        raise AudioInputError("samples hold NaN or infinity: the decoder or the sender is broken.")
    if len(sound) < SOUND_MIN_S * SAMPLE_RATE_HZ:
        raise AudioInputError(f"{len(sound) / SAMPLE_RATE_HZ:.2f} s of sound, at least {SOUND_MIN_S} s are needed.")
    return sound.clip(-1, 1)


def _levelled(sound: FloatArray) -> LogMel:
    sound = trim(sound)
    rms = float(np.sqrt(np.mean(sound.astype(np.float64) ** 2)))
    return log_mel(sound * np.float32(LEVEL_RMS / rms)).astype(np.float16)


def prepare_all(clips: Iterable[FloatArray]) -> tuple[list[LogMel], list[int]]:
    """The clips that `prepare` accepts, prepared, and their places among all."""
    heard, places = [], []
    for place, clip in enumerate(clips):
        try:
            heard.append(prepare(clip))
        except AudioInputError:
            continue
        places.append(place)
    return heard, places


def trim(sound: FloatArray) -> FloatArray:
    """Cut off the ends of samples (N,) that are 33 dB below the loudest 10 ms, keeping 50 ms and at least 0.2 s.

    Raises:
        AudioInputError: Silence.
    """
    start, end = bounds(sound)
    return sound[start:end]


def bounds(sound: FloatArray) -> tuple[int, int]:
    """The first sample that `trim` keeps, and the one behind the last.

    Raises:
        AudioInputError: Silence.
    """
    size = len(sound) // HOP_SAMPLES
    power = (sound[: size * HOP_SAMPLES].reshape(size, HOP_SAMPLES).astype(np.float64) ** 2).mean(axis=1)
    if power.max() < SILENCE_RMS**2:
        raise AudioInputError("silence: leave the audio modality out.")
    loud = np.flatnonzero(power > power.max() * 10 ** (-TRIM_DB / 10))
    start = max(0, int(loud[0]) - 5) * HOP_SAMPLES
    end = min(len(sound), (int(loud[-1]) + 6) * HOP_SAMPLES)
    missing = int(SOUND_MIN_S * SAMPLE_RATE_HZ) + WINDOW_SAMPLES - (end - start)
    if missing > 0:
        start, end = max(0, start - missing), min(len(sound), end + missing)
    return start, end
