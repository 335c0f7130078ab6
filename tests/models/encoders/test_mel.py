import numpy as np
import pytest

from models.encoders.mel import prepare
from models.errors import AudioInputError
from models.types import FloatArray
from tests.models.encoders.voice import voice


def test_one_row_per_10_ms_of_80_mels() -> None:
    found = prepare(voice(1.0))

    assert found.dtype == np.float16
    assert found.shape == (100, 80)
    assert np.isfinite(found).all()


def test_a_tone_lands_in_its_mel() -> None:
    def loudest(hz: float) -> int:
        tone = np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000).astype(np.float32)
        return int(prepare(tone).mean(axis=0).argmax())

    # Slaney's scale: 15 mel at 1000 Hz, 45.25 at 8000 Hz, 80 triangles between 0 and there.
    assert loudest(1000) == round(15 / 45.25 * 81) - 1
    assert loudest(200) < loudest(1000) < loudest(5000)


@pytest.mark.parametrize("gain", [0.01, 0.3, 5.0])
def test_the_level_does_not_matter(gain: float) -> None:
    np.testing.assert_allclose(prepare(voice(1.0) * 0.2 * gain), prepare(voice(1.0) * 0.2), atol=0.02)


def test_silence_around_the_utterance_does_not_matter() -> None:
    silence = np.zeros(16_000, dtype=np.float32)

    padded = prepare(np.concatenate([silence, voice(1.0), silence]))

    assert 100 <= len(padded) <= 112


def test_loud_samples_are_clipped_and_long_sound_is_cut() -> None:
    assert np.isfinite(prepare(voice(1.0) * 1e30)).all()
    assert len(prepare(np.tile(voice(10.0), 180))) == 2000


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, dtype=np.float32), "at least 0.2 s"),
        (voice(0.05), "at least 0.2 s"),
        (np.zeros(16_000, dtype=np.float32), "silence"),
        (np.full(16_000, 1e-6, dtype=np.float32), "silence"),
        (np.full(16_000, np.nan, dtype=np.float32), "NaN"),
        (np.append(voice(1.0), np.float32(np.inf)), "NaN or infinity"),
        (np.zeros((2, 16_000), dtype=np.float32), "mono"),
    ],
    ids=["empty", "50 ms", "silence", "nearly silence", "NaN", "infinity", "stereo"],
)
def test_what_cannot_be_judged_says_why(samples: FloatArray, reason: str) -> None:
    with pytest.raises(AudioInputError, match=reason):
        prepare(samples)
