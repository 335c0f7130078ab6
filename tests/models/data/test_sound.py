import numpy as np
import pytest

from models.data import sound
from models.types import FloatArray


def tone(hz: float, seconds: float = 0.5) -> FloatArray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


def level(samples: FloatArray) -> float:
    return float(np.sqrt(np.mean(samples[1000:-1000] ** 2)))


@pytest.mark.parametrize(("hz", "heard"), [(100, False), (1000, True), (3000, True), (5000, False)])
def test_a_telephone_passes_300_to_3400_hz(hz: float, heard: bool) -> None:  # noqa: FBT001 - the table's second column
    through = sound.telephone(tone(hz))

    assert through.shape == tone(hz).shape
    assert (level(through) > 0.3) == heard
    assert heard or level(through) < 0.01


def test_a_telephone_keeps_the_wave_within_the_noise_of_g711() -> None:
    error = sound.telephone(tone(1000))[1000:-1000] - tone(1000)[1000:-1000]

    # G.711 promises about 38 dB between signal and quantisation noise.
    assert 20 * np.log10(level(tone(1000)) / np.sqrt(np.mean(error**2))) > 30


@pytest.mark.parametrize("seed", range(8))
def test_augmented_sound_is_finite_within_range_and_repeats_with_its_seed(seed: int) -> None:
    samples = tone(300, 1.3)[: 20_000 + seed]

    changed = sound.augment(samples, np.random.default_rng(seed))

    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert 0.02 < np.abs(changed).max() <= 1.1
    assert 0.8 * len(samples) < len(changed) < 1.2 * len(samples)
    np.testing.assert_array_equal(changed, sound.augment(samples, np.random.default_rng(seed)))


@pytest.mark.parametrize("rows", [20, 150, 2000])
def test_a_varied_log_mel_stays_within_its_range_and_a_crop(rows: int) -> None:
    rng = np.random.default_rng(rows)
    log_mel = rng.uniform(-1, 1, (rows, 80)).astype(np.float16)

    found = [sound.vary(log_mel, rng) for _ in range(20)]

    for one in found:
        assert 0.8 * min(rows, sound.FRAMES_MAX) <= len(one) <= min(sound.FRAMES_MAX, 1.2 * rows)
        assert one.shape[1] == 80
        assert -1.1 <= one.min() <= one.max() <= 1.1
    assert len({one.tobytes() for one in found}) == 20
