"""A store, and sound that silero-vad takes for speech, made here: no recording of a person is needed."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import redis

from models.types import FloatArray
from pipelines.store.store import Store


@cache
def vowels_of(seconds: float, seed: int) -> FloatArray:
    """Sound shaped like speech: a wandering voice of 120 Hz through the formants of changing vowels."""
    rate, rng = 16_000, np.random.default_rng(seed)
    count = int(seconds * rate)
    pitch = 120 * (1 + 0.1 * np.sin(2 * np.pi * 2.5 * np.arange(count) / rate))
    pulses = np.diff(np.floor(np.cumsum(pitch / rate)), prepend=0.0)
    sound = pulses + 0.01 * rng.standard_normal(count)
    spectrum_hz = np.fft.rfftfreq(3200, 1 / rate)
    out = np.zeros(count + 3200)
    for start in range(0, count, 1600):
        formants = rng.choice([(730, 1090), (270, 2290), (570, 840), (530, 1840)], axis=0)
        gain = sum(1 / (1 + ((spectrum_hz - peak) / 80) ** 2) for peak in (*formants, 2500))
        piece = np.zeros(3200)
        chunk = sound[start : start + 3200]
        piece[: chunk.size] = chunk * np.hanning(3200)[: chunk.size]
        out[start : start + 3200] += np.fft.irfft(np.fft.rfft(piece) * gain, 3200)
    sound32: FloatArray = (0.5 * out[:count] / np.abs(out).max()).astype(np.float32)
    return sound32


@pytest.fixture(scope="session")
def vowels() -> Callable[[float, int], FloatArray]:
    """`vowels(seconds, seed)` gives mono samples at 16 kHz."""
    return vowels_of


@pytest_asyncio.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    connected = Store.connect(redis_url)
    yield connected
    await connected.close()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """The same Redis, key by key."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
