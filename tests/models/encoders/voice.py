"""A voice without a speaker."""

import numpy as np

from models.types import FloatArray


def voice(seconds: float, seed: int = 0) -> FloatArray:
    """Syllables of a buzzing, noisy tone: not speech, but with its rise and fall."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 9)) + 0.1 * rng.standard_normal(len(time))
    return (0.1 * buzz * (1.1 + np.sin(2 * np.pi * 3 * time + seed))).astype(np.float32)
