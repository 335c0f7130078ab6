from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from models.encoders.audio import AudioConfig, VoiceNetwork
from models.recipes.audio import (
    BATCH_CLIPS,
    HELD_OUT_ACTORS,
    NEUTRAL,
    NOBODY,
    ORDINARY_CLIPS,
    PASSES,
    VERSIONS,
    Voices,
    _build,
    _mixed,
    _pooled,
    _recipe,
    _targets,
    _voices,
    batches,
)
from tests.models.encoders.voice import voice

CONFIG = AudioConfig()
SIZE = 3 * 3 * 384


def levels(actors: NDArray[np.int64], size: int = 8) -> Voices:
    """Clips that are one level each, which tells their actor."""
    versions = np.broadcast_to(4.0 * actors[None, :, None], (3, len(actors), size)).astype(np.float32)
    log_mels = [[np.full((24, 80), actor, np.float16) for actor in actors] for _ in versions]
    return Voices(versions, log_mels, np.where(actors == NOBODY, NEUTRAL, np.arange(len(actors)) % 8), actors, 0)


def test_a_blend_says_whose_it_is() -> None:
    levels_of = np.repeat([[-1.0], [-3.0]], 16, axis=0).astype(np.float32)
    targets = np.repeat(np.eye(2), 16, axis=0).astype(np.float32)
    lengths = (24, 40)
    log_mels = [np.full((lengths[int(level < -2)], 80), level, np.float32) for level in levels_of[:, 0]]

    batch = _mixed(levels_of, log_mels, targets, np.random.default_rng(0))

    expected = batch["target"] @ torch.tensor([-1.0, -3.0])
    torch.testing.assert_close(batch["pooled"][:, 0], expected)
    torch.testing.assert_close(batch["log_mel"][:, 0, 0], expected)
    assert batch["lengths"].tolist() == [24] * 16 + [40] * 16
    assert (batch["log_mel"][:16, 24:] == 0).all()
    assert (batch["target"].max(dim=1).values >= 0.5).all()
    assert (batch["target"].argmax(dim=1) == torch.from_numpy(targets).argmax(dim=1)).all()
    assert 3 <= (batch["target"].max(dim=1).values < 1).sum() <= 26


def test_no_actor_is_heard_in_training_and_in_validation() -> None:
    assert sorted(actor for fold in HELD_OUT_ACTORS for actor in fold) == list(range(1, 22))
    assert HELD_OUT_ACTORS[-1] == range(19, 22)
    voices = levels(np.repeat(np.arange(22), 8))
    for fold in HELD_OUT_ACTORS:
        recipe = _recipe(lambda: voices, fold)
        assert f"{fold[0]}-{fold[-1]}" in recipe.about["validation_data"]
        heard = {
            round(float(row[0]) / 4)
            for batch in recipe.batches(np.random.default_rng(0))
            for row in batch["pooled"]
            if row[0] % 4 == 0
        }
        assert len(heard) > 5
        assert not heard & set(fold)


def test_every_batch_holds_some_ordinary_speech_called_neutral() -> None:
    voices = levels(np.repeat(np.arange(22), 8))
    rows = np.flatnonzero(voices.actors != NOBODY)

    found = list(batches(voices, rows, np.random.default_rng(0)))

    assert len(found) == PASSES * (len(rows) // BATCH_CLIPS)
    for batch in found:
        assert len(batch["target"]) == BATCH_CLIPS + ORDINARY_CLIPS
        torch.testing.assert_close(batch["target"].sum(dim=1), torch.ones(BATCH_CLIPS + ORDINARY_CLIPS))


def test_ordinary_speech_is_neutral_and_less_surely_so_than_what_is_acted() -> None:
    voices = levels(np.array([NOBODY, 3]))

    ordinary, acted = _targets(voices, np.array([0, 1]))

    assert int(ordinary.argmax()) == NEUTRAL
    assert int(acted.argmax()) == voices.labels[1]
    assert 0.5 < ordinary.max() < acted.max()


def test_a_clip_has_the_same_statistics_whatever_its_batch() -> None:
    torch.manual_seed(0)
    network = VoiceNetwork(AudioConfig(width=8, heads=2, layers=2, embedding=5)).eval()
    mels = [np.random.default_rng(n).normal(0, 1, (n, 80)).astype(np.float16) for n in (150, 20, 75)]

    together = _pooled(network, mels)

    assert together.shape == (3, 2 * 3 * 8)
    for one, own in zip(mels, together, strict=True):
        np.testing.assert_allclose(_pooled(network, [one])[0], own, atol=1e-4)


def test_the_network_starts_from_whispers_weights_and_the_scale_of_its_training_part() -> None:
    pooled = np.random.default_rng(0).normal(3, 2, (2, 50, SIZE)).astype(np.float32)

    network = _build(CONFIG, pooled)

    assert float(network.center.mean()) == pytest.approx(3, abs=0.1)
    assert float(network.scale.mean()) == pytest.approx(2, abs=0.1)
    assert float(network.whisper.state_dict()["conv1.weight"].abs().sum()) > 0
    trained = {name.split(".")[0] for name, one in network.named_parameters() if one.requires_grad}
    assert trained == {"embed", "head", "spectral"}


def test_a_clip_that_a_change_leaves_without_sound_is_heard_as_recorded(tmp_path: Path) -> None:
    """A click is too short once it is spoken faster; a telephone lets no hum through."""
    moment = np.arange(8_000) / 16_000
    click = np.zeros(8_000)
    click[2_000:5_520] = 0.3 * np.random.default_rng(0).standard_normal(3_520)
    for actor in ("01", "19"):
        folder = tmp_path / "ravdess" / f"Actor_{actor}"
        folder.mkdir(parents=True)
        for number, samples in enumerate((click, 0.5 * np.sin(2 * np.pi * 50 * moment)), 1):
            soundfile.write(folder / f"03-01-0{number}-01-01-01-{actor}.flac", samples, 16_000)
    (tmp_path / "calls").mkdir()
    soundfile.write(tmp_path / "calls" / "monologue.flac", voice(3.0), 16_000)

    voices = _voices(tmp_path)

    assert (len(voices.labels), voices.skipped) == (5, 0)
    assert voices.actors.tolist() == [1, 1, 19, 19, NOBODY]
    assert voices.versions.shape == (2 + VERSIONS, 5, SIZE)
    assert [len(version) for version in voices.log_mels] == [5] * (2 + VERSIONS)
