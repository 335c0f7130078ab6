import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import checkpoint, train
from models.recipes import RECIPES
from models.recipes.debug import debug
from models.recipes.recipe import balanced_class_weights

PYTHON = "from pathlib import Path; from models import recipes, train; "


def test_the_debug_recipe_learns_and_says_how_it_went(tmp_path: Path) -> None:
    results = train.run("debug", tmp_path, tmp_path / "out", seed=3)

    weights, metadata = checkpoint.load(tmp_path / "out" / "debug.safetensors", results["sha256"])
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["kept"]["accuracy"] >= 0.95
    assert results["seed"] == 3
    assert results["seconds"] > 0
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
    whole = debug(tmp_path)
    few = next(iter(whole.batches(np.random.default_rng(0))))
    eight = {key: value[:8] for key, value in few.items()}
    recipe = replace(whole, batches=lambda _: [eight] * 20, steps_per_epoch=20)

    results = train.train(recipe, tmp_path)

    assert results["history"][-1]["train_loss"] < 0.2


@pytest.mark.parametrize(("recipe", "seed"), [("other", 0), ("debug", 1)])
def test_a_folder_of_another_training_is_not_touched(tmp_path: Path, recipe: str, seed: int) -> None:
    train.run("debug", tmp_path, tmp_path / "out", seed=0)

    with pytest.raises(train.TrainError, match="give another folder"):
        train.train(replace(debug(tmp_path), name=recipe), tmp_path / "out", seed)


def test_an_unknown_recipe_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(train.TrainError, match=r"audio_ravdess.*video_fer2013"):
        train.run("nonsense", tmp_path, tmp_path)


def test_a_diverging_training_stops_and_says_so(tmp_path: Path) -> None:
    def diverged(model: nn.Module, _: object) -> torch.Tensor:
        return next(model.parameters()).sum() * float("nan")

    with pytest.raises(train.TrainError, match="lower the learning rate"):
        train.train(replace(debug(tmp_path), loss=diverged), tmp_path)


def test_an_empty_training_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(train.TrainError, match="empty"):
        train.train(replace(debug(tmp_path), batches=lambda _: []), tmp_path)


def test_every_recipe_is_a_documented_function() -> None:
    assert all(recipe.__doc__ for recipe in RECIPES.values())


def test_rare_classes_weigh_more_and_absent_ones_nothing() -> None:
    weights = balanced_class_weights(np.array([0, 0, 0, 1]), 3)

    torch.testing.assert_close(weights, torch.tensor([2 / 3, 2.0, 0.0]))
