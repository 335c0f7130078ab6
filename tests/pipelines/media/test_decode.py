"""Decoders keep their state from fragment to fragment, and a damaged packet costs its own length and no more."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
import pytest
from av.container import InputContainer

from pipelines.errors import MediaError
from pipelines.media.container import open_media, packets
from pipelines.media.decode import SoundDecoder
from pipelines.settings import MediaLimits
from tests.pipelines.media_files import film, sound

LIMITS = MediaLimits()


@contextmanager
def opened(whole: bytes) -> Iterator[InputContainer]:
    with open_media(io.BytesIO(whole), "a test's film", LIMITS.picture_max_pixels) as container:
        yield container


def sound_film(codec: str, seconds: float = 2, rate_hz: int = 48_000, channels: int = 1) -> bytes:
    return film("matroska", sound_codec=codec, samples=sound(seconds, rate_hz, channels), rate_hz=rate_hz)


@pytest.mark.parametrize(("codec", "tolerance"), [("pcm_s16le", 1e-4), ("pcm_f32le", 1e-7), ("pcm_u8", 1e-2)])
def test_every_sample_format_has_full_scale_at_1(codec: str, tolerance: float) -> None:
    whole = film("matroska" if codec != "pcm_u8" else "avi", sound_codec=codec, samples=sound(1, 16_000))
    with opened(whole) as container:
        stream = container.streams.audio[0]
        decoded = SoundDecoder().decode(stream, list(packets(container, stream)), LIMITS)
    ((_, only),) = decoded.sounds
    assert only.rate_hz == 16_000
    assert only.samples.dtype == np.float32
    assert np.abs(only.samples - sound(1, 16_000)).max() < tolerance


def test_a_decoder_that_goes_on_gives_what_one_over_all_packets_gives() -> None:
    with opened(sound_film("libopus")) as container:
        stream = container.streams.audio[0]
        read = list(packets(container, stream))
        decoder, halves = SoundDecoder(), []
        for part in (read[: len(read) // 2], read[len(read) // 2 :]):
            halves += [one.samples for _, one in decoder.decode(stream, part, LIMITS).sounds]
    with opened(sound_film("libopus")) as container:
        stream = container.streams.audio[0]
        ((_, whole),) = SoundDecoder().decode(stream, list(packets(container, stream)), LIMITS).sounds
    assert np.array_equal(np.concatenate(halves, axis=1), whole.samples)


def test_a_packet_that_does_not_decode_is_silence_of_its_length() -> None:
    with opened(sound_film("flac", rate_hz=16_000)) as container:
        stream = container.streams.audio[0]
        read: list[Any] = list(packets(container, stream))
        spoilt = av.Packet(bytes(read[3].size))
        spoilt.pts, spoilt.dts, spoilt.duration = read[3].pts, read[3].dts, read[3].duration
        spoilt.time_base, spoilt.stream = read[3].time_base, stream
        decoded = SoundDecoder().decode(stream, [*read[:3], spoilt, *read[4:]], LIMITS)
    samples = np.concatenate([one.samples for _, one in decoded.sounds], axis=1)
    assert decoded.damaged == 1
    assert abs(samples.shape[1] - 32_000) <= 16  # Matroska's durations are whole ms
    wrong = np.flatnonzero(np.abs(samples[0, :30_000] - sound(2, 16_000)[0, :30_000]) > 1e-3)
    assert 0 < np.ptp(wrong) < 5000


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(channels_max=1), "2 channels at 48000 Hz"),
        (MediaLimits(fragment_max_s=1), "more than 1 s of sound"),
        (MediaLimits(samples_per_fragment_max=100_000), "more than 100000 samples"),
        (MediaLimits(decode_max_s=1e-6), "processor time"),
    ],
)
def test_sound_beyond_a_limit_is_refused(limits: MediaLimits, message: str) -> None:
    with opened(sound_film("flac", channels=2)) as container:
        stream = container.streams.audio[0]
        read = list(packets(container, stream))
        with pytest.raises(MediaError, match=message):
            SoundDecoder().decode(stream, read, limits)
