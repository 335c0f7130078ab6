import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import whisper

from models.encoders.whisper_mel import log_mel


@pytest.mark.parametrize("seconds", [0.1, 1.0, 7.35])
def test_it_is_the_spectrogram_of_openai_whisper(seconds: float) -> None:
    rng = np.random.default_rng(0)
    sound = (rng.standard_normal(int(16_000 * seconds)) * 0.1).astype(np.float32)
    theirs = whisper.log_mel_spectrogram(torch.from_numpy(sound)).numpy().T
    np.testing.assert_allclose(log_mel(sound), theirs, atol=2e-4)


@pytest.mark.parametrize("samples", [1_600, 16_123, 159_500, 159_999, 160_000])
def test_silence_after_a_sound_is_that_of_openai_whisper(samples: int) -> None:
    sound = (np.random.default_rng(0).standard_normal(samples) * 0.1).astype(np.float32)
    theirs = whisper.log_mel_spectrogram(torch.from_numpy(sound), padding=160_000 - samples).numpy().T
    np.testing.assert_allclose(log_mel(sound, 1_000), theirs, atol=2e-4)


def test_silence_is_one_level() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(16_000, np.float32)), -1.5, atol=1e-5)


def test_the_spectrogram_is_the_same_whatever_multiplies_matrices() -> None:
    script = """
import hashlib, numpy as np
from models.encoders.whisper_mel import log_mel
noise = np.random.default_rng(0).normal(size=80_000).astype(np.float32) / 10
print(hashlib.sha256(log_mel(noise, 1_500).tobytes()).hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OPENBLAS_CORETYPE": kernels},
            capture_output=True,
            check=True,
        ).stdout
        for kernels in ("Prescott", "Haswell")
    }
    assert len(found) == 1
