"""What happens to a voice on its way: telephone, room, noise, speed. For training, and for the telephone rows."""

import numpy as np
from numpy.typing import NDArray

from models.data.media import resample
from models.types import SAMPLE_RATE_HZ, FloatArray

TELEPHONE_RATE_HZ = 8_000
MU = 255.0
FRAMES_MAX = 191


def telephone(samples: FloatArray, low_hz: float = 300.0, high_hz: float = 3_400.0) -> FloatArray:
    """Samples (N,) at 16 kHz through a telephone: band-passed, 8 kHz, G.711 mu-law (ITU-T G.711), back to 16 kHz."""
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    spectrum[(hz < low_hz) | (hz > high_hz)] = 0
    narrow = resample(np.fft.irfft(spectrum, len(samples)).astype(np.float32), SAMPLE_RATE_HZ, TELEPHONE_RATE_HZ)
    pressed = np.sign(narrow) * np.log1p(MU * np.abs(narrow).clip(0, 1)) / np.log1p(MU)
    pressed = np.round(pressed * 127) / 127
    narrow = (np.sign(pressed) * np.expm1(np.abs(pressed) * np.log1p(MU)) / MU).astype(np.float32)
    wide = resample(narrow, TELEPHONE_RATE_HZ, SAMPLE_RATE_HZ)
    return wide[: len(samples)] if len(wide) >= len(samples) else np.pad(wide, (0, len(samples) - len(wide)))


def augment(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One clip, changed at random: speed, colour, room, noise, then for four in ten a telephone, and gain."""
    samples = _speed(samples, rng.uniform(0.88, 1.14))
    samples = samples[: len(samples) // 512 * 512]  # a length with small factors: the transforms are ten times faster
    samples = _colour(samples, rng)
    if rng.random() < 0.3:
        samples = _room(samples, rng)
    if rng.random() < 0.6:
        level = np.sqrt(np.mean(samples**2) + 1e-12) * 10 ** (-rng.uniform(8, 40) / 20)
        samples = samples + _noise(len(samples), rng) * np.float32(level)
    # To a peak below 1 first: G.711's steps depend on the level.
    samples = samples / max(1e-6, float(np.abs(samples).max())) * np.float32(rng.uniform(0.05, 0.95))
    if rng.random() < 0.4:
        samples = telephone(samples, rng.uniform(50, 320), rng.uniform(3_200, 3_900))
    return samples.astype(np.float32)


def vary(log_mel: NDArray[np.float16], rng: np.random.Generator) -> FloatArray:
    """At most 191 rows from a random place of a log-mel (T, 80), changed as another speaker, line and moment would.

    Pace 0.85 to 1.18, pitch and formants by up to 3 mel bands, a smooth colour within 4 dB; then two bands of up to 12
    mels and two moments of up to 0.25 s are flattened to the mean (SpecAugment; Park et al. 2019, arXiv:1904.08779).
    """
    pace, shift = rng.uniform(0.85, 1.18), rng.uniform(-3, 3)
    mels = log_mel.shape[1]
    frames = min(FRAMES_MAX, int(len(log_mel) / pace))
    first = rng.uniform(0, max(0.0, len(log_mel) - 1 - frames * pace))
    x: FloatArray = _interpolated(log_mel.astype(np.float32), first + pace * np.arange(frames), axis=0)
    x = _interpolated(x, np.arange(mels) + shift, axis=1)
    # Whisper's log-mels count 40 dB as 1.
    colour = np.interp(np.linspace(0, 4, mels), np.arange(5), rng.uniform(-0.1, 0.1, 5))
    x = np.maximum(x + colour.astype(np.float32), x.min())
    mean = x.mean()
    for _ in range(2):
        band, moment = int(rng.integers(0, 13)), int(rng.integers(0, 26))
        low, start = int(rng.integers(0, mels - band)), int(rng.integers(0, max(1, len(x) - moment)))
        x[:, low : low + band] = mean
        x[start : start + moment] = mean
    return x


def _interpolated(x: FloatArray, places: FloatArray | NDArray[np.float64], axis: int) -> FloatArray:
    """Values of `x` at fractional places along an axis, the edges repeated outside."""
    places = places.clip(0, x.shape[axis] - 1)
    low = places.astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    part = np.expand_dims((places - low).astype(np.float32), 1 - axis)
    return np.asarray(x.take(low, axis) * (1 - part) + x.take(high, axis) * part, dtype=np.float32)


def _speed(samples: FloatArray, factor: float) -> FloatArray:
    """Play faster or slower: pitch, formants and pace move together, as from one speaker to another."""
    places = np.arange(0, len(samples) - 1, factor)
    return np.asarray(np.interp(places, np.arange(len(samples)), samples), dtype=np.float32)


def _colour(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A random smooth frequency response within 6 dB: microphones differ."""
    spectrum = np.fft.rfft(samples)
    knots_db = rng.uniform(-6, 6, 6)
    gain_db = np.interp(np.linspace(0, 5, len(spectrum)), np.arange(6), knots_db)
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(samples)).astype(np.float32)


def _room(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Convolve with noise that decays by 60 dB within 0.15 to 0.6 s, below the direct sound by 3 to 15 dB."""
    decay_s = rng.uniform(0.15, 0.6)
    size = int(decay_s * SAMPLE_RATE_HZ)
    tail = rng.standard_normal(size) * 10 ** (-3 * np.arange(size) / size)
    tail *= 10 ** (-rng.uniform(3, 15) / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    length = (len(samples) + size + 511) // 512 * 512
    mixed = np.fft.irfft(np.fft.rfft(samples, length) * np.fft.rfft(tail, length), length)
    return mixed[: len(samples)].astype(np.float32)


def _noise(size: int, rng: np.random.Generator) -> FloatArray:
    """Noise of unit power, its spectrum falling with frequency by a random exponent (white to brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, size)
    return np.asarray(noise / np.sqrt(np.mean(noise**2) + 1e-12), dtype=np.float32)
