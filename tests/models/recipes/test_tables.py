from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import train
from models.data.tables import Table
from models.fusion.tables import CLIP
from models.recipes import FOLDS, RECIPES
from models.recipes import tables as recipes
from models.types import Modality

PLAN = recipes.Plan(
    name="tiny",
    labels=("no", "yes"),
    strength={Modality.AUDIO: 1.0, Modality.VIDEO: 1.0},
    leaked={Modality.VIDEO: (0.6, 1.0)},
    context=True,
    learning_rate=1e-3,
    about={"data": "synthetic"},
)


@pytest.fixture
def table() -> Table:
    """Voice and face both show the label, each with noise of its own."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    measured = {
        modality: (2 * labels[:, None] - 1 + rng.normal(0, 2, (120, 3))).astype(np.float32)
        for modality in (Modality.AUDIO, Modality.VIDEO)
    }
    return Table(measured, labels, np.array([f"group{row // 10}" for row in range(120)]), 0)


@pytest.fixture(autouse=True)
def few_divisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "DIVISIONS", 2)


@pytest.mark.slow
def test_an_encoder_answers_rows_of_groups_it_did_not_see(table: Table) -> None:
    """Measurements that are their group's number: an encoder that had seen the group would know its label."""
    groups = np.array([f"group{row // 10}" for row in range(120)])
    told = np.eye(12, dtype=np.float32)[np.arange(120) // 10] * CLIP
    by_group = Table({Modality.AUDIO: told, Modality.VIDEO: told}, np.arange(120) // 10 % 2, groups, 0)

    unseen = recipes.out_of_fold_logits(by_group, replace(PLAN, strength=dict.fromkeys(Modality, 100.0)))

    odds = (unseen[..., 1] - unseen[..., 0]) * (2 * by_group.labels - 1)[None, :, None]
    assert (odds > 0).mean() < 0.6
    assert recipes.out_of_fold_logits(table, PLAN).shape == (2, 120, 2, 2)


def test_unspoilt_answers_are_as_right_as_declared(table: Table) -> None:
    labels = np.tile(table.labels, 50)
    sure = np.stack([-5.0 * (2 * labels - 1), 5.0 * (2 * labels - 1)], axis=1).astype(np.float32)

    found = recipes.without_leakage(sure, labels, accuracy=0.7, spread=1.5, rng=np.random.default_rng(0))

    odds = (found[:, 1] - found[:, 0]) * (2 * labels - 1)
    assert (odds > 0).mean() == pytest.approx(0.7, abs=0.02)
    assert odds.std() == pytest.approx(1.5, abs=0.05)


def test_a_fit_keeps_only_measured_statistics() -> None:
    x = np.array([[0.0, 7.0], [1.0, 7.0], [np.nan, 7.0], [1e6, 7.0]] * 60, np.float32)

    found = recipes.fit(x, np.arange(240) % 2, classes=3, strength=1.0)

    assert np.isfinite(found["weight"].numpy()).all()
    assert found["scale"][1] == 1
    assert found["bias"][2] == -10


@pytest.mark.slow
def test_training_gives_every_figure_and_both_modalities_beat_one(table: Table, tmp_path: Path) -> None:
    first, *_ = recipes._folds(PLAN, table, 2)

    kept = train.train(replace(first(), epochs=2), tmp_path)["kept"]

    for suffix in ("", "_audio", "_video", "_averaged"):
        assert {f"accuracy{suffix}", f"balanced_accuracy{suffix}", f"ece{suffix}"} <= set(kept)
    assert kept["accuracy"] > 0.7


def test_folds_share_no_group_and_leave_none_out(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], set[str]]] = []
    monkeypatch.setattr(recipes, "_recipe", lambda _, train, rest: seen.append((set(train.groups), set(rest.groups))))

    for make in recipes._folds(PLAN, table, 5):
        make()

    assert all(train.isdisjoint(rest) for train, rest in seen)
    assert set.union(*(rest for _, rest in seen)) == set(table.groups)
    assert sum(len(rest) for _, rest in seen) == 12


def test_both_recipes_can_be_trained_and_cross_validated_by_name() -> None:
    assert {"fusion_mosi", "fusion_ravdess_av"} <= set(RECIPES) & set(FOLDS)
