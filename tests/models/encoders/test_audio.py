from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from whisper.model import AudioEncoder as WhisperEncoder

from models import checkpoint
from models.bundles import EMBEDDED
from models.encoders import whisper_weights
from models.encoders.audio import (
    AudioConfig,
    AudioEncoder,
    VoiceNetwork,
    int8_keys,
    pretrained,
    statistics,
)
from models.encoders.mel import LogMel, prepare
from models.encoders.whisper_layers import WhisperLayers
from models.errors import AudioInputError, CheckpointError
from models.families import load_as
from models.types import Modality
from tests.models.encoders.voice import voice

SMALL = AudioConfig(width=8, heads=2, layers=3, embedding=5, widths=(4, 6))


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    network = VoiceNetwork(SMALL)
    with torch.no_grad():
        # Biases of zero would hide a padding that leaks.
        for name, value in network.state_dict().items():
            if name.endswith("bias"):
                value.normal_()
    return AudioEncoder(network, SMALL, name="audio@test")


@pytest.mark.parametrize(("width", "heads", "layers"), [(384, 6, 4), (64, 2, 3)])
def test_the_blocks_are_those_of_openai_whisper_on_its_own_window(width: int, heads: int, layers: int) -> None:
    torch.manual_seed(0)
    reference = WhisperEncoder(80, 1500, width, heads, layers)
    mine = WhisperLayers(width, heads, layers)
    weights = {key: value for key, value in reference.state_dict().items() if "ln_post" not in key}
    positional = weights.pop("positional_embedding")
    mine.load_state_dict(weights)
    window = torch.randn(1, 3000, 80)

    with torch.inference_mode():
        found, _ = mine(window, torch.tensor([3000]))
        x = functional.gelu(reference.conv2(functional.gelu(reference.conv1(window.transpose(1, 2)))))
        x = x.transpose(1, 2) + positional
        for place, block in enumerate(reference.blocks):
            x = block(x)
            torch.testing.assert_close(found[:, place], x, rtol=0, atol=1e-5)


@given(st.lists(st.integers(3_200, 40_000), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_an_answer_does_not_depend_on_the_batch_mates(encoder: AudioEncoder, sizes: list[int]) -> None:
    batch = [prepare(voice(size / 16_000, seed)) for seed, size in enumerate(sizes)]

    together = encoder.encode(batch)

    for item, feature in zip(batch, together, strict=True):
        alone = encoder.encode([item])[0]
        np.testing.assert_allclose(feature.embedding, alone.embedding, atol=1e-4)
        np.testing.assert_allclose(feature.prediction.emotion, alone.prediction.emotion, atol=1e-4)


def test_statistics_are_mean_deviation_and_change_inside_the_clip() -> None:
    frames = torch.tensor([[0.0, 1.0, 2.0, 3.0, 99.0], [5.0, 99.0, 99.0, 99.0, 99.0]])[:, None, :, None]
    inside = torch.tensor([[True] * 4 + [False], [True] + [False] * 4])

    found = statistics(frames, inside)

    expected = torch.tensor([[1.5, 1.25**0.5, 2.0], [5.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_whispers_blocks_are_not_trained() -> None:
    network = VoiceNetwork(SMALL)
    trained = {name.split(".")[0] for name, one in network.named_parameters() if one.requires_grad}
    assert trained == {"embed", "head", "spectral"}


def test_the_answer_is_the_mean_of_two_halves_and_the_embedding_holds_both(encoder: AudioEncoder) -> None:
    log_mel = torch.randn(2, 60, 80, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([60, 31])
    with torch.inference_mode():
        pooled = statistics(*encoder._network.frames(log_mel, lengths))
        embedding, logits = encoder._network(pooled, log_mel, lengths)
        own = encoder._network.spectral(log_mel, lengths)[0]
        halves = encoder._network.halves(pooled, log_mel, lengths)[1]

    torch.testing.assert_close(logits, halves.mean(dim=0))
    torch.testing.assert_close(embedding[:, 5:], own)
    assert not torch.equal(halves[0], halves[1])


def test_the_published_blocks_are_loaded_and_too_many_are_refused() -> None:
    network = pretrained(AudioConfig(layers=1), "tiny.en")
    state = whisper_weights.openai_weights(whisper_weights.read("tiny.en", whisper_weights.MODEL)).state
    key = "blocks.0.attn.key.weight"
    np.testing.assert_array_equal(network.whisper.state_dict()[key].numpy(), state[f"encoder.{key}"].astype(np.float32))
    with pytest.raises(KeyError):
        pretrained(AudioConfig(layers=5), "tiny.en")
    with pytest.raises(RuntimeError, match="size mismatch"):
        pretrained(AudioConfig(width=512, heads=8), "tiny.en")


def test_matrices_stored_in_8_bits_judge_nearly_the_same(tmp_path: Path) -> None:
    network = pretrained(AudioConfig(), "tiny.en").eval()
    whole = AudioEncoder(network, AudioConfig(), name="audio@test")
    checkpoint.save(
        tmp_path / "a", network.state_dict(), AudioConfig(), name="audio", int8_keys=int8_keys(AudioConfig())
    )

    packed = load_as(AudioEncoder, tmp_path / "a")

    log_mel = prepare(voice(1.0))
    assert (tmp_path / "a").stat().st_size < 8 << 20
    np.testing.assert_allclose(packed.classify([log_mel]), whole.classify([log_mel]), atol=0.05)


def test_features_are_an_embedding_and_probabilities(encoder: AudioEncoder) -> None:
    feature = encoder.encode([prepare(voice(1.0))])[0]

    assert feature.modality is Modality.AUDIO
    assert feature.embedding.shape == (2 * SMALL.embedding,)
    assert feature.prediction.emotion.shape == (7,)
    assert feature.prediction.emotion.sum() == pytest.approx(1, abs=1e-5)
    assert feature.prediction.polarity.sum() == pytest.approx(1, abs=1e-5)
    assert -3 <= feature.prediction.score <= 3


def test_an_empty_batch_has_no_answers(encoder: AudioEncoder) -> None:
    assert encoder.encode([]) == []


@pytest.mark.parametrize("shape", [(0, 80), (10, 79), (2001, 80), (80,)])
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

    loaded = load_as(AudioEncoder, path, expected_sha256=sha256)

    log_mel = prepare(voice(1.0))
    expected = encoder.encode([log_mel])[0].prediction.emotion
    assert loaded.name == f"audio@{sha256[:8]}"
    np.testing.assert_allclose(loaded.encode([log_mel])[0].prediction.emotion, expected, atol=0.01)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 0},
        {"width": 10**9},
        {"width": 9, "heads": 3},
        {"heads": 0},
        {"layers": 0},
        {"layers": 10**6},
        {"embedding": 0},
        {"widths": (24,)},
        {"widths": (24, 0)},
        {"widths": (1,) * 7},
        {"widths": (24, "48")},
    ],
)
def test_an_absurd_architecture_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^({'|'.join([*values, 'width'])}) must"):
        AudioConfig(**values)


def test_a_face_checkpoint_is_no_voice() -> None:
    with pytest.raises(CheckpointError, match="holds VideoEncoder, and AudioEncoder is needed"):
        load_as(AudioEncoder, EMBEDDED / "video.safetensors")


def test_a_higher_temperature_makes_answers_less_sure(encoder: AudioEncoder) -> None:
    log_mel = prepare(voice(1.0))
    calm = AudioEncoder(encoder._network, replace(SMALL, temperature=4.0), name="audio@test")

    sure, unsure = (one.classify([log_mel])[0] for one in (encoder, calm))

    assert unsure.max() < sure.max()
    assert unsure.argmax() == sure.argmax()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), 1e9])
def test_an_absurd_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        AudioConfig(temperature=temperature)


def test_the_embedded_voice_is_found_small_and_answers() -> None:
    path = EMBEDDED / "audio.safetensors"

    feature = load_as(AudioEncoder, path).encode([prepare(voice(1.0))])[0]

    assert path.stat().st_size < 8 << 20
    assert feature.embedding.shape == (256,)
    assert feature.prediction.emotion.sum() == pytest.approx(1, abs=1e-5)
