import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from models.types import FloatArray
from pipelines.media.vad import WINDOW_SAMPLES, SpeechDetector

Voice = Callable[[float, int], FloatArray]


def read(path: Path) -> FloatArray:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(path) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    sound: FloatArray = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)
    return sound


def judged(sound: FloatArray, detector: SpeechDetector | None = None) -> FloatArray:
    """The probabilities (W,) of the whole windows of the sound, by a new detector where none is given."""
    detector = detector or SpeechDetector()
    windows = sound[: sound.size // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    return np.array([detector.judge(window) for window in windows], np.float32)


def test_digital_silence_and_faint_noise_are_no_speech() -> None:
    noise = (0.001 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)
    for sound in (np.zeros(32_000, np.float32), noise):
        assert judged(sound).max() < 0.5


def test_a_voice_is_speech(vowels: Voice) -> None:
    assert np.median(judged(vowels(3.0, 0))) > 0.5


def test_a_probability_lies_within_0_and_1(vowels: Voice) -> None:
    probabilities = judged(vowels(1.0, 0))
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1


def test_what_was_said_before_counts(vowels: Voice) -> None:
    sound, detector = vowels(1.0, 0), SpeechDetector()
    judged(vowels(2.0, 1), detector)
    assert not np.array_equal(judged(sound, detector), judged(sound))


def test_after_a_reset_nothing_is_remembered(vowels: Voice) -> None:
    sound, detector = vowels(1.0, 0), SpeechDetector()
    judged(vowels(2.0, 1), detector)
    detector.reset()
    np.testing.assert_array_equal(judged(sound, detector), judged(sound))


def test_detectors_of_one_process_do_not_hear_each_other(vowels: Voice) -> None:
    sound, other, detector = vowels(1.0, 0), SpeechDetector(), SpeechDetector()
    heard = []
    for start in range(0, sound.size, 8 * WINDOW_SAMPLES):
        judged(vowels(0.3, start), other)
        heard.append(judged(sound[start : start + 8 * WINDOW_SAMPLES], detector))
    np.testing.assert_array_equal(np.concatenate(heard), judged(sound))


def test_the_stream_hears_without_importing_torch() -> None:
    program = "import sys, pipelines.media.vad; pipelines.media.vad.SpeechDetector(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", ["agent", "caller"])
def test_a_real_phone_call_is_part_speech_part_silence(data_dir: Path, name: str) -> None:
    sound = read(data_dir / "calls" / f"auto_repairs_40_{name}.flac")
    share = float(np.mean(judged(sound) > 0.5))
    assert 0.1 < share < 0.8
