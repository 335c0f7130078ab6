import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import checkpoint, train
from models.errors import TrainError
from models.recipes.debug import DebugConfig, debug
from models.recipes.recipe import Batch, Recipe, balanced_class_weights

PYTHON = "from pathlib import Path; from models import recipes, train; "


def test_the_debug_recipe_learns_and_says_how_it_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(seconds)))

    results = train.run("debug", tmp_path, tmp_path / "out", seed=3)

    weights, metadata = checkpoint.load(tmp_path / "out" / "debug.safetensors", results["sha256"])
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["kept"]["accuracy"] >= 0.95
    assert results["seed"] == 3
    assert results["seconds"] == 12  # the clock is asked before and after each epoch
    assert results["machine"]["torch"] == torch.__version__
    assert len(results["history"]) == results["epochs"] == 12
    assert metadata.about["validation"]["accuracy"] == results["kept"]["accuracy"]
    assert weights["0.weight"].shape == (16, 2)


def test_an_interrupted_training_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    recipe = replace(debug(tmp_path), average_decay=0.9)
    whole = train.train(recipe, tmp_path / "whole", seed=5)

    train.train(recipe, tmp_path / "parts", seed=5, stop_after_epochs=4)
    torch.rand(7)  # Whatever else the process draws must not matter.
    parts = train.train(recipe, tmp_path / "parts", seed=5)

    assert parts["history"] == whole["history"]
    assert parts["sha256"] == whole["sha256"]


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    code = PYTHON + f"r = train.run('debug', Path('.'), Path({str(tmp_path / 'killed')!r}), 5)"
    patient = code.replace("train.run", "__import__('torch').set_num_threads(1); train.run")
    with subprocess.Popen([sys.executable, "-c", patient], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    resumed = train.run("debug", tmp_path, tmp_path / "killed", seed=5)

    assert resumed["history"] == train.run("debug", tmp_path, tmp_path / "whole", seed=5)["history"]


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = train.run("debug", tmp_path, tmp_path / "out")

    assert train.run("debug", tmp_path, tmp_path / "out") == first


def test_the_best_epoch_is_kept_not_the_last(tmp_path: Path) -> None:
    figures = iter([0.3, 0.9, 0.5])
    recipe = replace(debug(tmp_path), epochs=3, validate=lambda _: {"accuracy": next(figures)})

    results = train.train(recipe, tmp_path)

    assert results["kept"]["epoch"] == 1
    assert checkpoint.load(tmp_path / "debug.safetensors")[1].about["epoch"] == 1


def test_eight_samples_are_learnt_by_heart(tmp_path: Path) -> None:
    recipe = debug(tmp_path)
    rows = {tuple(row) for batch in recipe.batches(np.random.default_rng(0)) for row in batch["x"].tolist()}
    assert len(rows) == 8

    results = train.train(recipe, tmp_path)

    assert results["history"][0]["train_accuracy"] < 1
    assert results["history"][-1]["train_accuracy"] == 1
    assert results["history"][-1]["train_loss"] < 0.25 < results["history"][0]["train_loss"]


def with_accuracies(tmp_path: Path, values: list[float], **changes: Any) -> Recipe:
    figures = iter(values)
    validated = replace(debug(tmp_path), validate=lambda _: {"accuracy": next(figures)})
    return replace(validated, **({"epochs": len(values)} | changes))


def test_without_a_metric_the_last_epoch_is_kept(tmp_path: Path) -> None:
    results = train.train(with_accuracies(tmp_path, [0.3, 0.9, 0.5], metric=None), tmp_path)

    assert results["kept"]["epoch"] == 2
    assert results["metric"] is None
    assert checkpoint.load(tmp_path / "debug.safetensors")[1].about["epoch"] == 2


def test_patience_ends_the_training_and_is_not_forgotten_by_a_resume(tmp_path: Path) -> None:
    accuracies = [0.3, 0.9, 0.5, 0.9, 0.4, 0.95, 0.96]
    whole = train.train(with_accuracies(tmp_path, accuracies, patience=3), tmp_path / "whole")
    assert (whole["epochs"], whole["kept"]["epoch"]) == (5, 1)

    train.train(with_accuracies(tmp_path, accuracies, patience=3), tmp_path / "parts", stop_after_epochs=3)
    rest = with_accuracies(tmp_path, accuracies[3:], patience=3, epochs=7)
    parts = train.train(rest, tmp_path / "parts")
    assert parts["history"] == whole["history"]
    assert parts["sha256"] == whole["sha256"]

    assert train.train(rest, tmp_path / "parts") == parts


def test_calibration_sees_the_kept_network_and_its_architecture_is_saved(tmp_path: Path) -> None:
    seen = []

    def calibrate(model: nn.Module) -> DebugConfig:
        seen.append((model.training, torch.is_grad_enabled(), len(list(model.parameters()))))
        return DebugConfig(width=16 + len(seen))

    train.train(with_accuracies(tmp_path, [0.3, 0.9, 0.5], calibrate=calibrate), tmp_path)

    assert seen == [(False, False, 4), (False, False, 4)]
    assert checkpoint.load(tmp_path / "debug.safetensors")[1].config == {"width": 18}


def test_bfloat16_is_used_where_the_processor_has_it_and_recorded(tmp_path: Path) -> None:
    precisions = []

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        answer = model(batch["x"])
        precisions.append(answer.dtype)
        return nn.functional.cross_entropy(answer.float(), batch["y"])

    recipe = replace(debug(tmp_path), epochs=1, loss=loss)
    asked = train.train(replace(recipe, bfloat16=True), tmp_path / "asked")
    assert str(precisions[-1]) == f"torch.{asked['precision']}"
    if not torch.cuda.is_available():
        train.train(recipe, tmp_path / "plain")
        assert precisions[-1] == torch.float32
        native = any(torch.cpu.get_capabilities().get(name) for name in train.NATIVE_BFLOAT16)
        assert (asked["precision"] == "bfloat16") == native


def test_the_folds_of_a_cross_validation_are_summed_up_and_not_repeated(tmp_path: Path) -> None:
    out = tmp_path / "out"
    makers = [partial(with_accuracies, tmp_path, values) for values in ([0.2, 0.4], [0.8, 0.6], [0.9, 0.9])]
    results = train.cross_validate(makers, out, seed=2)

    assert [fold["accuracy"] for fold in results["folds"]] == [0.4, 0.8, 0.9]
    assert results["mean"]["accuracy"] == pytest.approx(0.7)
    assert results["std"]["accuracy"] == pytest.approx(np.std([0.4, 0.8, 0.9], ddof=1))
    assert "epoch" not in results["mean"]
    assert results == json.loads((out / "results.json").read_text())
    assert checkpoint.load(out / "fold_3" / "debug.safetensors")[1].about["validation"]["accuracy"] == 0.9

    spent = [partial(with_accuracies, tmp_path, [], epochs=2)] * 3  # would fail if it were validated again
    assert train.cross_validate(spent, out, seed=2) == results


def test_a_cross_validation_without_folds_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no fold"):
        train.cross_validate([], tmp_path)
    with pytest.raises(TrainError, match="no recipe with folds 'debug'"):
        train.run("debug", tmp_path, tmp_path, folds=True)


@pytest.mark.parametrize(("recipe", "seed"), [("other", 0), ("debug", 1)])
def test_a_folder_of_another_training_is_not_touched(tmp_path: Path, recipe: str, seed: int) -> None:
    train.run("debug", tmp_path, tmp_path / "out", seed=0)

    with pytest.raises(TrainError, match="give another folder"):
        train.train(replace(debug(tmp_path), name=recipe), tmp_path / "out", seed)


def test_an_unknown_recipe_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"audio_ravdess.*video_fer2013"):
        train.run("nonsense", tmp_path, tmp_path)


def test_a_diverging_training_stops_and_says_so(tmp_path: Path) -> None:
    def diverged(model: nn.Module, _: object) -> torch.Tensor:
        return next(model.parameters()).sum() * float("nan")

    with pytest.raises(TrainError, match="lower the learning rate"):
        train.train(replace(debug(tmp_path), loss=diverged), tmp_path)


def test_an_empty_training_split_is_named(tmp_path: Path) -> None:
    def split(_: object) -> list[Batch]:
        return [{"x": torch.from_numpy(rows)} for rows in np.split(np.empty(0), 0)]  # as recipes do: it fails

    with pytest.raises(TrainError, match="empty"):
        train.train(replace(debug(tmp_path), batches=lambda _: []), tmp_path)
    with pytest.raises(TrainError, match=r"empty.*--data"):
        train.train(replace(debug(tmp_path), batches=split, steps_per_epoch=0), tmp_path)


@pytest.mark.parametrize("figures", [{"accuracy": float("nan")}, {"other": 1.0}, {}])
def test_a_validation_that_cannot_choose_is_named(tmp_path: Path, figures: dict[str, float]) -> None:
    with pytest.raises(TrainError, match="'accuracy' in epoch 0"):
        train.train(replace(debug(tmp_path), validate=lambda _: figures), tmp_path)


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"metric": None, "patience": 2}])
def test_a_recipe_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(TrainError, match="debug: "):
        train.train(replace(debug(tmp_path), **changes), tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(TrainError, match="another folder"):
            train.run("debug", tmp_path, out)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
@pytest.mark.parametrize("name", ["resume.pt.tmp", "results.json", "curves.png"])
def test_a_full_disk_says_what_to_do_and_the_training_goes_on_afterwards(tmp_path: Path, name: str) -> None:
    full = tmp_path / name
    full.symlink_to("/dev/full")
    with pytest.raises(TrainError, match=r"No space left on device.*goes on"):
        train.run("debug", tmp_path, tmp_path)

    full.unlink()
    assert len(train.run("debug", tmp_path, tmp_path)["history"]) == 12


def test_rare_classes_weigh_more_and_absent_ones_nothing() -> None:
    weights = balanced_class_weights(np.array([0, 0, 0, 1]), 3)

    torch.testing.assert_close(weights, torch.tensor([2 / 3, 2.0, 0.0]))
