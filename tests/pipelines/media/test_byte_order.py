"""Which order of bytes linear sound is in: never silence for speech, never a false alarm."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.media.byte_order import WINDOW_SAMPLES, is_byte_swapped

Pcm = NDArray[np.int16]
RATE_HZ = 8000
LEVELS = (1, 2, 5, 30, 100, 127, 200, 1000, 10_000, 32_000)


def pcm(sound: NDArray[np.float64]) -> Pcm:
    return np.clip(np.round(sound), -32_768, 32_767).astype(np.int16)[:, None]


def fragments(samples: Pcm, length: int = RATE_HZ) -> Iterator[Pcm]:
    """Of a second each, as they come."""
    for at in range(0, len(samples), length):
        yield samples[at : at + length]


def recorded(file: Path, rate_hz: int) -> Pcm:
    """(N, channels)."""
    with av.open(file) as container:
        stream = container.streams.audio[0]
        layout = "stereo" if stream.codec_context.channels > 1 else "mono"
        resampler = av.AudioResampler(format="s16p", layout=layout, rate=rate_hz)
        frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T


def depths(samples: Pcm) -> Iterator[Pcm]:
    """The same with fewer bits, softer, and clipped."""
    yield samples
    yield samples >> 8 << 8
    yield samples >> 4 << 4
    for loudness in (0.1, 0.003, 10):
        yield np.clip(samples * loudness, -32_768, 32_767).astype(np.int16)


def sounds() -> dict[str, NDArray[np.float64]]:
    """Four seconds each, of a level of one: noise of many kinds, tones, signals of machines."""
    rng, count = np.random.default_rng(0), RATE_HZ * 4
    at = np.arange(count)
    at_s = at / RATE_HZ
    white, bits = rng.normal(size=count) / 3, np.repeat(rng.integers(0, 2, count // 25), 25)
    spectrum = np.fft.rfft(white) / np.sqrt(np.maximum(np.arange(count // 2 + 1), 1))
    pink = np.fft.irfft(spectrum, count)
    made = {
        "silence": np.zeros(count),
        "white": white,
        "uniform": rng.uniform(-1, 1, count),
        "pink": pink / np.abs(pink).max(),
        "hiss": np.diff(white, append=0),
        "steps": rng.integers(-1, 2, count).astype(float),
        "sparse": white * (rng.random(count) < 0.02),
        "clicks": (at % 100 == 0).astype(float),
        "saw": at % 61 / 30.5 - 1,
        "keys": (np.sin(2 * np.pi * 697 * at_s) + np.sin(2 * np.pi * 1336 * at_s)) / 2,
        "sweep": np.sin(2 * np.pi * 500 * at_s**2),
        "modem": np.sin(2 * np.pi * np.cumsum(1070 + 200 * bits) / RATE_HZ),
        "chord": sum(np.sin(2 * np.pi * hz * at_s) for hz in (261.6, 329.6, 392.0, 523.3)) * np.exp(-(at_s % 1)) / 4,
    }
    for hz in (1, 50, 440, 1000, 2600, 3400, 3900, 4000):
        tone = np.sin(2 * np.pi * hz * at_s + 0.3)
        made |= {f"{hz} Hz": tone, f"square {hz} Hz": np.sign(tone), f"{hz} Hz, offset": (tone + 1.2) / 2.2}
    return made


@pytest.mark.parametrize("name", sounds())
def test_no_sound_of_a_machine_and_no_noise_raises_a_false_alarm(name: str) -> None:
    for level in LEVELS:
        for samples in depths(pcm(sounds()[name] * level)):
            assert not any(map(is_byte_swapped, fragments(samples)))


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_real_sound_raises_no_false_alarm_and_is_known_when_it_is_swapped(data_dir: Path, rate_hz: int) -> None:
    files = [data_dir / "calls/auto_repairs_40_caller.flac", *sorted(data_dir.glob("speech/**/*.wav"))]
    files += [*sorted(data_dir.glob("clips/talk*.mp4")), *sorted(data_dir.glob("ravdess/**/*.flac"))[::120]]
    assert len(files) > 15
    told: dict[int, list[bool]] = {}
    for file in files:
        recording = recorded(file, rate_hz)[: 30 * rate_hz]
        loud = [np.abs(second).max() > 5000 for second in fragments(recording, rate_hz)]
        for depth, samples in enumerate(depths(recording)):
            seconds = list(fragments(samples, rate_hz))
            assert not any(map(is_byte_swapped, seconds)), file.name
            told.setdefault(depth, []).extend(
                is_byte_swapped(one.byteswap()) for one in itertools.compress(seconds, loud)
            )
    for depth, known in told.items():
        assert sum(known) > 0.8 * len(known) > 0, depth


def test_swapped_speech_is_known_however_soft_and_however_short(data_dir: Path) -> None:
    samples = recorded(data_dir / "media_cases/x_clean_customer.flac", 16_000)
    spoken = samples[16_000 * 12 // 10 :][:48_000]
    for loudness in (1, 0.1, 0.01, 0.003, 0.001):
        assert is_byte_swapped((spoken * loudness).astype(np.int16).byteswap()), loudness
    told = [is_byte_swapped(one.byteswap()) for one in fragments(spoken, WINDOW_SAMPLES)]
    assert sum(told) > len(told) / 2
    assert not any(map(is_byte_swapped, fragments(spoken, WINDOW_SAMPLES)))


def test_one_party_that_speaks_is_enough() -> None:
    voice = pcm(sounds()["modem"] * 5000)
    both = np.hstack([np.zeros_like(voice), voice])
    assert is_byte_swapped(both.byteswap())
    assert not is_byte_swapped(both)


@pytest.mark.parametrize("count", [0, 1, 15, 17, 159])
def test_a_few_samples_are_no_trouble(count: int) -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, (count, 2)).astype(np.int16)
    assert not is_byte_swapped(noise)
