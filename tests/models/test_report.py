from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import train
from models.recipes.debug import debug
from models.report import draw_curves


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_every_figure_of_every_epoch_once_also_after_a_resume(tmp_path: Path) -> None:
    recipe = debug(tmp_path)
    train.train(recipe, tmp_path, stop_after_epochs=5)
    assert len(scalars(tmp_path / "tensorboard")["train/loss"]) == 5

    results = train.train(recipe, tmp_path)

    found = scalars(tmp_path / "tensorboard")
    assert set(found) == {"train/loss", "train/learning_rate", "validation/accuracy", "validation/train_accuracy"}
    for tag, name in (("train/loss", "train_loss"), ("validation/accuracy", "accuracy")):
        assert [step for step, _ in found[tag]] == list(range(12))
        np.testing.assert_allclose([value for _, value in found[tag]], [row[name] for row in results["history"]], 1e-5)


def test_the_curves_are_drawn_anew_after_a_resume(tmp_path: Path) -> None:
    recipe = debug(tmp_path)
    train.train(recipe, tmp_path / "parts", stop_after_epochs=11)
    assert not (tmp_path / "parts" / "curves.png").exists()
    results = train.train(recipe, tmp_path / "parts")

    draw_curves(results["history"], "accuracy", tmp_path / "whole.png")
    draw_curves(results["history"][:6], "accuracy", tmp_path / "half.png")

    drawn, whole, half = (
        np.asarray(Image.open(path))
        for path in (tmp_path / "parts" / "curves.png", tmp_path / "whole.png", tmp_path / "half.png")
    )
    assert np.array_equal(drawn, whole)
    assert not np.array_equal(whole, half)


def test_without_a_metric_every_figure_is_drawn(tmp_path: Path) -> None:
    row = {"epoch": 0.0, "train_loss": 1.0, "learning_rate": 0.1}
    draw_curves([row | {"a": 0.1, "b": 0.2}], None, tmp_path / "both.png")
    draw_curves([row | {"a": 0.1, "b": 0.2}], "a", tmp_path / "one.png")
    draw_curves([row], None, tmp_path / "none.png")

    assert len({(tmp_path / name).read_bytes() for name in ("both.png", "one.png", "none.png")}) == 3
