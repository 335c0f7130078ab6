from collections.abc import Mapping

import numpy as np
import pytest

from models.data.non_speech import SOUNDS, sounds
from models.types import SAMPLE_RATE_HZ, FloatArray


@pytest.fixture(scope="module")
def made() -> Mapping[str, FloatArray]:
    return dict(sounds())


def peaks_hz(samples: FloatArray, count: int) -> list[float]:
    """The strongest frequencies, none within 20 Hz of a stronger one."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    found: list[float] = []
    for place in np.argsort(-power):
        if all(abs(hz[place] - one) > 20 for one in found):
            found.append(float(hz[place]))
        if len(found) == count:
            break
    return sorted(found)


def test_there_are_many_sounds_of_every_length_an_utterance_can_have(made: Mapping[str, FloatArray]) -> None:
    lengths_s = [len(samples) / SAMPLE_RATE_HZ for samples in made.values()]

    assert len(made) >= 90
    assert (min(lengths_s), max(lengths_s)) == (0.1, 29.9)
    for samples in made.values():
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert np.abs(samples).max() <= 1.0001
    assert sum(bool(np.any(samples)) for samples in made.values()) == len(made) - 3  # digital silence


def test_they_are_the_same_every_time(made: Mapping[str, FloatArray]) -> None:
    again = dict(sounds())

    assert list(again) == list(made)
    assert all(np.array_equal(again[name], made[name]) for name in made)
    assert not np.array_equal(made["white noise"][:1600], made["white noise, 29.9 s"][:1600])


@pytest.mark.parametrize(
    ("name", "hz"),
    [
        ("dialling tone, America", [350, 440]),
        ("busy tone, America", [480, 620]),
        ("ringing tone, Germany", [425]),
        ("special information tone", [950, 1_400, 1_800]),
        ("dialled digit, held", [770, 1_336]),
        ("fax calling tone", [1_100]),
    ],
)
def test_tones_have_their_published_frequencies(made: Mapping[str, FloatArray], name: str, hz: list[float]) -> None:
    assert peaks_hz(made[name], len(hz)) == pytest.approx(hz, abs=2)


def test_a_cadence_is_kept(made: Mapping[str, FloatArray]) -> None:
    ringing = np.abs(made["ringing tone, Germany"]).reshape(-1, SAMPLE_RATE_HZ // 2).max(axis=1) > 0.01
    assert ringing.tolist() == [True] * 2 + [False] * 8 + [True] * 2


def test_by_telephone_nothing_above_4_khz_is_left(made: Mapping[str, FloatArray]) -> None:
    narrow = [samples for name, samples in made.items() if name.endswith("by telephone")]
    assert len(narrow) >= 10
    for samples in narrow:
        power = np.abs(np.fft.rfft(samples)) ** 2
        above = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ) > 4_100
        assert power[above].sum() < 1e-3 * power.sum()


def test_lengths_and_levels_are_within_an_utterance() -> None:
    assert all(0.1 <= length_s <= 29.9 and level_dbfs <= 0 for _, length_s, level_dbfs in SOUNDS.values())
