import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.types import FloatArray
from pipelines.media.vad import WINDOW_SAMPLES, SpeechDetector

Voice = Callable[[float, int], FloatArray]


def read(path: Path) -> FloatArray:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(path) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    sound: FloatArray = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)
    return sound


def test_digital_silence_and_faint_noise_are_no_speech() -> None:
    noise = (0.001 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)
    for sound in (np.zeros(32_000, np.float32), noise):
        assert SpeechDetector().feed(sound).max() < 0.5


def test_a_voice_is_speech(vowels: Voice) -> None:
    assert np.median(SpeechDetector().feed(vowels(3.0, 0))) > 0.5


def test_one_probability_per_complete_window_within_0_and_1(vowels: Voice) -> None:
    probabilities = SpeechDetector().feed(vowels(1.0, 0)[: 10 * WINDOW_SAMPLES + 511])
    assert probabilities.shape == (10,)
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 16_000), max_size=20))
def test_probabilities_do_not_depend_on_how_the_sound_is_cut_into_blocks(vowels: Voice, cuts: list[int]) -> None:
    sound = vowels(1.0, 0)
    detector = SpeechDetector()
    blocks = [detector.feed(sound[start:end]) for start, end in pairwise([0, *sorted(cuts), sound.size])]
    np.testing.assert_array_equal(np.concatenate(blocks), SpeechDetector().feed(sound))


def test_after_a_reset_nothing_is_remembered(vowels: Voice) -> None:
    sound, detector = vowels(1.0, 0), SpeechDetector()
    detector.feed(vowels(2.0, 1)[:-100])
    detector.reset()
    np.testing.assert_array_equal(detector.feed(sound), SpeechDetector().feed(sound))


def test_detectors_of_one_process_do_not_hear_each_other(vowels: Voice) -> None:
    sound, other, detector = vowels(1.0, 0), SpeechDetector(), SpeechDetector()
    heard = []
    for start in range(0, sound.size, 4000):
        other.feed(vowels(0.3, start))
        heard.append(detector.feed(sound[start : start + 4000]))
    np.testing.assert_array_equal(np.concatenate(heard), SpeechDetector().feed(sound))


def test_the_stream_hears_without_importing_torch() -> None:
    program = "import sys, pipelines.media.vad; pipelines.media.vad.SpeechDetector(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", ["agent", "caller"])
def test_a_real_phone_call_is_part_speech_part_silence(data_dir: Path, name: str) -> None:
    sound = read(data_dir / "calls" / f"auto_repairs_40_{name}.flac")
    share = float(np.mean(SpeechDetector().feed(sound) > 0.5))
    assert 0.1 < share < 0.8
