import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import train, training_state
from models.errors import TrainError
from models.recipes.debug import debug
from models.recipes.recipe import Recipe


class Planted:
    """What a pickle could do to its reader."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with one epoch of the debug recipe."""
    train.train(debug(tmp_path), tmp_path, stop_after_epochs=1)
    return tmp_path


@pytest.mark.parametrize(("decay", "held"), [(1.0, 2 / 3), (0.9, 0.9)])
def test_the_kept_weights_follow_the_last_steps_or_with_a_decay_of_one_the_whole_training(
    tmp_path: Path, decay: float, held: float
) -> None:
    state = training_state.start(replace(debug(tmp_path), average_decay=decay), torch.device("cpu"))
    assert state.average is not None
    for step in range(1, 101):
        for values in state.model.parameters():
            values.data.fill_(step)
        state.average.update_parameters(state.model)
    assert all(values.mean().item() == pytest.approx(100 * held, rel=0.05) for values in state.judged.parameters())


def test_a_damaged_state_is_named_wherever_it_was_damaged(begun: Path) -> None:
    whole = (begun / "resume.pt").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"x", rng.bytes(2000), b"\x80\x02" + rng.bytes(500), b"PK\x03\x04" + rng.bytes(500)]
    damaged += [whole[: len(whole) * part // 8] for part in range(1, 8)]
    for content in damaged:
        (begun / "resume.pt").write_bytes(content)
        with pytest.raises(TrainError, match=r"resume\.pt is damaged.*delete it"):
            train.run("debug", begun, begun)


@pytest.mark.parametrize("value", [[1, 2], {"recipe": "debug", "seed": 0}, 3])
def test_a_file_that_holds_something_else_is_named(begun: Path, value: object) -> None:
    torch.save(value, begun / "resume.pt")

    with pytest.raises(TrainError, match="no state of a training"):
        train.run("debug", begun, begun)


def test_nothing_in_the_state_is_executed(begun: Path) -> None:
    torch.save(Planted(begun / "trace"), begun / "resume.pt")

    with pytest.raises(TrainError, match="delete it"):
        train.run("debug", begun, begun)
    assert not (begun / "trace").exists()


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "resume.pt").mkdir()

    with pytest.raises(TrainError, match="cannot read"):
        train.run("debug", tmp_path, tmp_path)


def wider(recipe: Recipe) -> Recipe:
    return replace(recipe, build=lambda: nn.Sequential(nn.Linear(2, 17), nn.ReLU(), nn.Dropout(0.1), nn.Linear(17, 2)))


def deeper(recipe: Recipe) -> Recipe:
    return replace(recipe, build=lambda: nn.Sequential(recipe.build(), nn.Linear(2, 2)))


def averaged(recipe: Recipe) -> Recipe:
    return replace(recipe, average_decay=0.9)


@pytest.mark.parametrize("change", [wider, deeper, averaged])
def test_the_state_of_another_network_is_refused(begun: Path, change: Callable[[Recipe], Recipe]) -> None:
    with pytest.raises(TrainError, match="another version of the recipe 'debug'"):
        train.train(change(debug(begun)), begun)


@pytest.mark.parametrize(
    "changed", [{"epochs": 5}, {"learning_rate": 0.5}, {"steps_per_epoch": 1}, {"about": {"data": "another"}}]
)
def test_the_state_of_other_data_or_settings_is_refused(begun: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(TrainError, match="other data or with other settings"):
        train.train(replace(debug(begun), **changed), begun)
