"""Whisper's log-mel spectrogram (Radford et al. 2022, arXiv:2212.04356, section 2.2), without torch."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from models.types import SAMPLE_RATE_HZ, FloatArray

WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
MELS = 80
HIGH_HZ = 8_000.0
POWER_MIN = 1e-10
RANGE = 8.0
"""Decades below the loudest that are told apart."""


def log_mel(sound: FloatArray, rows: int | None = None) -> FloatArray:
    """openai-whisper's `log_mel_spectrogram` of sound and the silence after it, transposed.

    Args:
        sound: Samples (N,) at 16 kHz in [-1, 1].
        rows: How many rows of 10 ms to give, at least N // 160; None gives no silence. Of silence only a few rows are computed.

    Returns:
        (rows, 80), most of it in [-1, 1.5].
    """
    size = len(sound) // HOP_SAMPLES if rows is None else rows
    padded = np.pad(sound, (0, max(min(WINDOW_SAMPLES + HOP_SAMPLES, size * HOP_SAMPLES - len(sound)), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(
        np.pad(padded, WINDOW_SAMPLES // 2, mode="reflect"), WINDOW_SAMPLES
    )
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames[::HOP_SAMPLES][:size] * window)) ** 2
    # Sums in 64 bits: in 32 they differ with the processor's kernels of matrix products, and Whisper's commas with them.
    decades = np.log10((power.astype(np.float64) @ _mel_filters()).clip(POWER_MIN))
    decades = np.pad(decades, ((0, size - len(decades)), (0, 0)), mode="edge")
    return np.asarray((np.maximum(decades, decades.max() - RANGE) + 4) / 4, dtype=np.float32)


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Triangles (201, 80) of equal area, evenly spaced on Slaney's mel scale from 0 to 8000 Hz, as in Whisper's `mel_filters.npz`.

    The scale is linear up to 1000 Hz (15 mel) and logarithmic above, 27 steps to a factor of 6.4 (Slaney 1998, Auditory
    Toolbox, section on mfcc).
    """
    step = np.log(6.4) / 27
    top = 15 + np.log(HIGH_HZ / 1_000) / step
    mel = np.linspace(0, top, MELS + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1_000 * np.exp(step * (mel - 15).clip(0)))
    bins = np.fft.rfftfreq(WINDOW_SAMPLES, 1 / SAMPLE_RATE_HZ)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    area = 2 / (edges[2:] - edges[:-2])
    return np.asarray((np.minimum(rising, falling).clip(0) * area).astype(np.float32), dtype=np.float64)
