from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import checkpoint
from models.bundles import EMBEDDED
from models.checkpoint import CheckpointError
from models.encoders.audio import (
    AudioConfig,
    AudioEncoder,
    AudioInputError,
    LogMel,
    VoiceNetwork,
    prepare,
)
from models.types import FloatArray, Modality

SMALL = AudioConfig(widths=(4, 6, 8), embedding=5)


def voice(seconds: float, seed: int = 0) -> FloatArray:
    """Syllables of a buzzing, noisy tone: not speech, but with its rise and fall."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 9)) + 0.1 * rng.standard_normal(len(time))
    return (0.1 * buzz * (1.1 + np.sin(2 * np.pi * 3 * time + seed))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    network = VoiceNetwork(SMALL)
    with torch.no_grad():
        # Untrained running statistics would hide a padding that leaks: make every normalisation shift.
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "norm.bias", "norm1.bias", "norm2.bias")):
                value.normal_()
    return AudioEncoder(network, SMALL, name="audio@test")


def test_one_row_per_10_ms_of_64_mels() -> None:
    log_mel = prepare(voice(1.0))

    assert log_mel.dtype == np.float16
    assert log_mel.shape == (98, 64)
    assert np.isfinite(log_mel).all()


def test_a_tone_lands_in_its_mel() -> None:
    def loudest(hz: float) -> int:
        return int(
            prepare(np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000).astype(np.float32)).mean(axis=0).argmax()
        )

    # 64 triangles evenly spaced in mel between 60 Hz (92 mel) and 7600 Hz (2787 mel): 1000 Hz is 1000 mel.
    assert loudest(1000) == round((1000 - 92.3) / (2786.6 - 92.3) * 65) - 1
    assert loudest(200) < loudest(1000) < loudest(5000)


@pytest.mark.parametrize("gain", [0.01, 0.3, 5.0])
def test_the_level_does_not_matter(gain: float) -> None:
    np.testing.assert_allclose(prepare(voice(1.0) * 0.2 * gain), prepare(voice(1.0) * 0.2), atol=0.02)


def test_silence_around_the_utterance_does_not_matter() -> None:
    silence = np.zeros(16_000, dtype=np.float32)

    padded = prepare(np.concatenate([silence, voice(1.0), silence]))

    assert 98 <= len(padded) <= 110


def test_loud_samples_are_clipped_and_long_sound_is_cut() -> None:
    assert np.isfinite(prepare(voice(1.0) * 1e30)).all()
    assert len(prepare(np.tile(voice(10.0), 180))) == 1998


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


@given(st.lists(st.integers(3_200, 40_000), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_an_answer_does_not_depend_on_the_batch_mates(encoder: AudioEncoder, sizes: list[int]) -> None:
    batch = [prepare(voice(size / 16_000, seed)) for seed, size in enumerate(sizes)]

    together = encoder.encode(batch)

    for item, feature in zip(batch, together, strict=True):
        alone = encoder.encode([item])[0]
        np.testing.assert_allclose(feature.embedding, alone.embedding, atol=1e-4)
        np.testing.assert_allclose(feature.prediction.emotion, alone.prediction.emotion, atol=1e-4)


def test_features_are_an_embedding_and_probabilities(encoder: AudioEncoder) -> None:
    feature = encoder.encode([prepare(voice(1.0))])[0]

    assert feature.modality is Modality.AUDIO
    assert feature.embedding.shape == (5,)
    assert feature.prediction.emotion.shape == (7,)
    assert feature.prediction.emotion.sum() == pytest.approx(1, abs=1e-5)
    assert feature.prediction.polarity.sum() == pytest.approx(1, abs=1e-5)
    assert -3 <= feature.prediction.score <= 3


def test_an_empty_batch_has_no_answers(encoder: AudioEncoder) -> None:
    assert encoder.encode([]) == []


@pytest.mark.parametrize("shape", [(0, 64), (10, 63), (2001, 64), (64,)])
def test_what_prepare_did_not_make_is_refused(encoder: AudioEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioInputError, match="expected a prepared log-mel"):
        encoder.encode([np.zeros(shape, dtype=np.float16)])


def test_read_only_input_is_welcome(encoder: AudioEncoder) -> None:
    log_mel: LogMel = prepare(voice(0.5))
    log_mel.flags.writeable = False

    assert len(encoder.encode([log_mel])) == 1


def test_an_encoder_comes_back_from_its_checkpoint(encoder: AudioEncoder, tmp_path: Path) -> None:
    path = tmp_path / "audio.safetensors"
    sha256 = checkpoint.save(path, encoder._network.state_dict(), SMALL, name="audio")

    loaded = AudioEncoder.load(path, expected_sha256=sha256)

    log_mel = prepare(voice(1.0))
    expected = encoder.encode([log_mel])[0].prediction.emotion
    assert loaded.name == f"audio@{sha256[:8]}"
    np.testing.assert_allclose(loaded.encode([log_mel])[0].prediction.emotion, expected, atol=0.01)


@pytest.mark.parametrize("widths", [(), (4,), (0, 4), (4, 10**9), (4,) * 9])
def test_an_absurd_architecture_is_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="widths"):
        AudioConfig(widths=widths)


def test_a_face_checkpoint_is_no_voice() -> None:
    with pytest.raises(CheckpointError, match=r"AudioConfig|VoiceNetwork"):
        AudioEncoder.load(EMBEDDED / "video.safetensors")


def test_a_higher_temperature_makes_answers_less_sure(encoder: AudioEncoder) -> None:
    log_mel = prepare(voice(1.0))
    calm = AudioEncoder(encoder._network, replace(SMALL, temperature=4.0), name="audio@test")

    sure, unsure = (one.clips([log_mel])[0][1] for one in (encoder, calm))

    assert unsure.max() < sure.max()
    assert unsure.argmax() == sure.argmax()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), 1e9])
def test_an_absurd_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        AudioConfig(temperature=temperature)


def test_the_embedded_voice_is_found_small_and_answers() -> None:
    path = EMBEDDED / "audio.safetensors"

    feature = AudioEncoder.load(path).encode([prepare(voice(1.0))])[0]

    assert path.stat().st_size < 3 << 20
    assert feature.embedding.shape == (128,)
    assert feature.prediction.emotion.sum() == pytest.approx(1, abs=1e-5)
