from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.encoders.mel import MELS, LogMel
from models.recipes.audio import FRAMES_MAX, HELD_OUT_ACTORS, SILENT, Voices, _mixed, _recipe, _voices, vary


def log_mel(frames: int, seed: int = 0) -> LogMel:
    return np.random.default_rng(seed).normal(-4, 2, (frames, MELS)).astype(np.float16)


@pytest.mark.parametrize("frames", [20, 100, 224, 2000])
def test_a_varied_clip_is_bounded_finite_and_leaves_its_source_alone(frames: int) -> None:
    source = log_mel(frames)
    before = source.copy()
    for seed in range(20):
        found = vary(source, np.random.default_rng(seed))
        assert found.shape[1] == MELS
        assert int(frames / 1.18) - 1 <= len(found) or len(found) == FRAMES_MAX
        assert len(found) <= FRAMES_MAX
        assert np.isfinite(found).all()
        assert found.min() >= np.float32(SILENT)
    np.testing.assert_array_equal(source, before)


def test_every_draw_varies_differently_and_the_same_seed_alike() -> None:
    one, other, again = (vary(log_mel(224), np.random.default_rng(seed)) for seed in (0, 1, 0))
    np.testing.assert_array_equal(one, again)
    size = min(len(one), len(other))
    assert np.abs(one[:size] - other[:size]).max() > 0.5


def test_a_blend_is_as_long_as_its_larger_part_and_says_whose_it_is() -> None:
    clips = [
        np.full((frames, MELS), value, np.float32) for frames, value in ((30, -1.0), (60, -3.0)) for _ in range(16)
    ]
    labels = np.repeat([0, 1], 16)
    batch = _mixed(clips, labels, np.random.default_rng(0))
    blended = 0
    for row in range(32):
        own, other, share = int(batch["label"][row]), int(batch["other"][row]), float(batch["share"][row])
        assert share >= 0.5
        assert int(batch["lengths"][row]) == (30, 60)[own]
        expected = share * (-1.0, -3.0)[own] + (1 - share) * (-1.0, -3.0)[other]
        assert float(batch["log_mel"][row, 0, 0]) == pytest.approx(expected, abs=1e-4)
        blended += share < 1
    assert 6 <= blended <= 26


def test_no_actor_is_heard_in_training_and_in_validation() -> None:
    assert sorted(actor for fold in HELD_OUT_ACTORS for actor in fold) == list(range(1, 22))
    assert HELD_OUT_ACTORS[-1] == range(19, 22)
    actors = np.repeat(np.arange(1, 22), 4)
    clips = [np.full((40, MELS), 4 * actor, np.float16) for actor in actors]
    voices = Voices([clips] * 8, clips, np.arange(84) % 8, actors, 0)
    for fold in HELD_OUT_ACTORS:
        recipe = _recipe(lambda voices=voices: voices, fold)  # type: ignore[misc]
        assert f"{fold[0]}-{fold[-1]}" in recipe.about["validation_data"]
        # Every clip is one level, which tells its actor.
        heard = {
            round(float(row[:30].median()) / 4)
            for batch in recipe.batches(np.random.default_rng(0))
            for row, share in zip(batch["log_mel"], batch["share"], strict=True)
            if share == 1
        }
        assert heard
        assert not heard & set(fold)


def test_a_clip_that_a_change_leaves_without_sound_is_heard_as_recorded(tmp_path: Path) -> None:
    """A click is too short once it is spoken faster; a telephone lets no hum through."""
    actor = tmp_path / "ravdess" / "Actor_01"
    actor.mkdir(parents=True)
    moment = np.arange(8_000) / 16_000
    click = np.zeros(8_000)
    click[2_000:5_520] = 0.3 * np.random.default_rng(0).standard_normal(3_520)
    for number, samples in enumerate((click, 0.5 * np.sin(2 * np.pi * 50 * moment)), 1):
        soundfile.write(actor / f"03-01-0{number}-01-01-01-01.flac", samples, 16_000)
        other = tmp_path / "ravdess" / "Actor_19"
        other.mkdir(exist_ok=True)
        soundfile.write(other / f"03-01-0{number}-01-01-01-19.flac", samples, 16_000)

    voices = _voices(tmp_path)

    assert (len(voices.labels), voices.skipped) == (4, 0)
    assert all(len(one) == 4 for one in (*voices.versions, voices.telephone))
