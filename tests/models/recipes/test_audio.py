from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from models.encoders.audio import AudioConfig, VoiceNetwork
from models.recipes.audio import (
    BATCH_CLIPS,
    FRAMES_MAX,
    HELD_OUT_ACTORS,
    MASKED_FRAMES,
    NEUTRAL,
    NOBODY,
    ORDINARY_CLIPS,
    VERSIONS,
    Lower,
    Voices,
    _lower,
    _mixed,
    _recipe,
    _voices,
    batches,
    vary,
)
from tests.models.encoders.voice import voice

WIDTH = 384


def clip(frames: int, seed: int = 0, width: int = 8) -> Lower:
    return np.random.default_rng(seed).normal(0, 2, (frames, width)).astype(np.float16)


def levels(actors: np.ndarray, width: int = 8) -> Voices:
    """Clips that are one level each, which tells their actor."""
    clips = [np.full((40, width), 4 * actor, np.float16) for actor in actors]
    return Voices([clips] * 3, np.where(actors == NOBODY, NEUTRAL, np.arange(len(actors)) % 8), actors, 0)


@pytest.mark.parametrize("frames", [10, 72, 73, 1000])
def test_a_varied_clip_is_a_bounded_part_with_few_masked_frames_and_leaves_its_source_alone(frames: int) -> None:
    source = clip(frames)
    before = source.copy()
    for seed in range(20):
        found = vary(source, np.random.default_rng(seed))
        assert found.shape == (min(frames, FRAMES_MAX), 8)
        assert (found == 0).all(axis=1).sum() <= MASKED_FRAMES
    np.testing.assert_array_equal(source, before)


def test_every_draw_varies_differently_and_the_same_seed_alike() -> None:
    one, other, again = (vary(clip(224), np.random.default_rng(seed)) for seed in (0, 1, 0))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.5


def test_a_blend_is_as_long_as_its_larger_part_and_says_whose_it_is() -> None:
    clips = [np.full((frames, 8), value, np.float32) for frames, value in ((30, -1.0), (60, -3.0)) for _ in range(16)]
    labels = np.repeat([0, 1], 16)
    batch = _mixed(clips, labels, np.random.default_rng(0))
    blended = 0
    for row in range(32):
        own, other, share = int(batch["label"][row]), int(batch["other"][row]), float(batch["share"][row])
        assert share >= 0.5
        assert int(batch["inside"][row].sum()) == (30, 60)[own]
        expected = share * (-1.0, -3.0)[own] + (1 - share) * (-1.0, -3.0)[other]
        assert float(batch["lower"][row, 0, 0]) == pytest.approx(expected, abs=1e-4)
        blended += share < 1
    assert 6 <= blended <= 26


def test_no_actor_is_heard_in_training_and_in_validation() -> None:
    assert sorted(actor for fold in HELD_OUT_ACTORS for actor in fold) == list(range(1, 22))
    assert HELD_OUT_ACTORS[-1] == range(19, 22)
    voices = levels(np.repeat(np.arange(0, 22), 4))
    for fold in HELD_OUT_ACTORS:
        recipe = _recipe(lambda: voices, fold)
        assert f"{fold[0]}-{fold[-1]}" in recipe.about["validation_data"]
        heard = {
            round(float(row[:30].max()) / 4)
            for batch in recipe.batches(np.random.default_rng(0))
            for row, share in zip(batch["lower"], batch["share"], strict=True)
            if share == 1
        }
        assert len(heard) > 10
        assert not heard & set(fold)


def test_every_batch_holds_some_ordinary_speech_called_neutral() -> None:
    voices = levels(np.repeat(np.arange(0, 22), 8))
    rows = np.flatnonzero(voices.actors != NOBODY)

    found = list(batches(voices, rows, np.random.default_rng(0)))

    assert len(found) == len(rows) // (BATCH_CLIPS - ORDINARY_CLIPS)
    for batch in found:
        assert len(batch["label"]) == BATCH_CLIPS
        assert batch["label"][-ORDINARY_CLIPS:].tolist() == [NEUTRAL] * ORDINARY_CLIPS


def test_the_frozen_blocks_give_a_clip_the_same_whatever_its_batch() -> None:
    torch.manual_seed(0)
    network = VoiceNetwork(AudioConfig(width=8, heads=2, layers=2, frozen=1, hidden=6, embedding=5)).eval()
    mels = [np.random.default_rng(n).normal(0, 1, (n, 80)).astype(np.float16) for n in (20, 75, 150)]

    together = _lower(network, mels)

    assert [len(one) for one in together] == [10, 38, 75]
    for one, own in zip(mels, together, strict=True):
        np.testing.assert_allclose(_lower(network, [one])[0].astype(np.float32), own, atol=0.02)


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
    assert len(voices.versions) == 2 + VERSIONS
    assert all(len(one) == 5 and one[0].shape[1] == WIDTH for one in voices.versions)
