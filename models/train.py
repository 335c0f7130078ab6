"""One readable training loop: AdamW, warm-up and cosine, clipping, the best epoch kept, exact resume after a kill.

What is trained stands in `models/recipes/`. The loop writes into one folder: `NAME.safetensors` (the epoch kept so
far), `resume.pt` (read with `weights_only=True`), from which the same command goes on, `tensorboard/`, and at the end
`results.json` and `curves.png`. Several workers train together when each is given its `Share`.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import checkpoint
from models.errors import TrainError
from models.recipes import FOLDS, RECIPES, make, make_folds
from models.recipes.recipe import Batch, Recipe
from models.report import Report, draw_curves, processor
from models.share import Share
from models.training_state import TrainingState, resume, save, start

Results = dict[str, Any]
ALONE = Share()
NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Names of `torch.cpu.get_capabilities`; elsewhere bfloat16 is emulated, and slower than float32."""


class _Step(nn.Module):
    """The loss of a batch as one module, which is what gradients are averaged over."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor]) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(self.model, batch)


def run(
    recipe_name: str, data: Path, out: Path, seed: int = 0, *, folds: bool = False, share: Share = ALONE
) -> Results:
    """Train the named recipe on `data` into the folder `out`; this is `undertone train`.

    Args:
        recipe_name: One of `models.recipes.RECIPES`; of `FOLDS` to cross-validate.
        data: The folder of the data sets.
        out: See `train` and `cross_validate`.
        seed: See `train`.
        folds: Cross-validate instead of training once.
        share: This worker's share, where several train together.

    Raises:
        TrainError: No such recipe, and whatever `train` raises.
    """
    known = FOLDS if folds else RECIPES
    if recipe_name not in known:
        what = "recipe with folds" if folds else "recipe"
        raise TrainError(f"no {what} {recipe_name!r}: choose one of {', '.join(sorted(known)) or '(there is none)'}.")
    if folds:
        return cross_validate(make_folds(recipe_name, data), out, seed, share=share)
    return train(make(recipe_name, data), out, seed, share=share)


def cross_validate(
    recipes: Sequence[Callable[[], Recipe]], out: Path, seed: int = 0, *, share: Share = ALONE
) -> Results:
    """Train every fold into `out/fold_1`, `out/fold_2`, …; the same call goes on, and repeats no finished fold.

    Returns:
        What `out/results.json` holds: recipe, seed, metric, the kept figures of every fold, the mean and the standard
        deviation (n - 1) of each figure over the folds, seconds, machine.

    Raises:
        TrainError: There is no fold, or whatever `train` raises.
    """
    if not recipes:
        raise TrainError("no fold to train: the data folder gives this recipe nothing to divide.")
    folds = [train(make(), out / f"fold_{number}", seed, share=share) for number, make in enumerate(recipes, 1)]
    kept = [{name: value for name, value in fold["kept"].items() if name != "learning_rate"} for fold in folds]
    figures = [name for name in kept[0] if name != "epoch" and all(name in row for row in kept)]
    columns = {name: [row[name] for row in kept] for name in figures}
    results: Results = {
        **{name: folds[0][name] for name in ("recipe", "seed", "metric", "workers", "precision", "machine")},
        "folds": kept,
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "std": {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()},
        "seconds": round(sum(fold["seconds"] for fold in folds), 1),
    }
    if share.is_main:
        with _writing(out):
            (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def train(
    recipe: Recipe, out: Path, seed: int = 0, *, share: Share = ALONE, stop_after_epochs: int | None = None
) -> Results:
    """Train to the recipe's last epoch, or until its patience ends, going on from `out/resume.pt` when it is there.

    Args:
        recipe: What to train.
        out: Folder for checkpoint, results, logs and resume state.
        seed: Seeds initialisation, order, augmentation and dropout; the same seed on the same machine with as many
            threads and workers gives the same weights, with or without an interruption.
        share: This worker's share, where several train together; only worker 0 touches `out`.
        stop_after_epochs: Leave early after so many epochs in this call, as if killed between two epochs.

    Returns:
        What `results.json` holds: recipe, seed, the kept epoch and its figures, history, seconds of the epochs and their
        validation (reading the data comes before), machine, precision, workers, SHA-256.

    Raises:
        TrainError: The training split is empty, the loss or the metric is not finite, `out` cannot be written, holds
            another training or a damaged one.
    """
    _check(recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    state = start(recipe, device)
    resume(state, recipe, out / "resume.pt", seed, share)
    step = share.wrap(_Step(state.model, recipe.loss))
    first = state.epoch
    with _reporting(state, recipe, out, share) as report:
        while not _finished(state, recipe) and state.epoch - first != stop_after_epochs:
            started = time.monotonic()
            loss = _epoch(state, recipe, step, seed=seed, share=share, report=report)
            figures = share.broadcast(_validate(state, recipe) if share.is_main else {})
            state.history.append(_row(state, recipe, loss, figures))
            state.elapsed_s += time.monotonic() - started
            state.epoch += 1
            if report is not None:
                with _writing(out):
                    _keep(state, recipe, out, seed)
                    report.epoch(state.history[-1])
    return share.broadcast(_results(state, recipe, out, seed, share) if share.is_main else {})


def _check(recipe: Recipe) -> None:
    if recipe.steps_per_epoch < 1:
        raise TrainError(
            f"{recipe.name}: an epoch without a batch: the training split is empty, or smaller than one batch; "
            "look whether --data names the right folder and its files are whole."
        )
    if recipe.epochs < 1:
        raise TrainError(f"{recipe.name}: {recipe.epochs} epochs: give the recipe at least one.")
    if recipe.patience and recipe.metric is None:
        raise TrainError(f"{recipe.name}: patience needs a metric: name one in the recipe, or set patience to 0.")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainError(
            f"cannot write to {out} ({error.strerror or error}): make room there or name another folder; "
            "the same command goes on from the last epoch written."
        ) from error


@contextmanager
def _reporting(state: TrainingState, recipe: Recipe, out: Path, share: Share) -> Iterator[Report | None]:
    """Worker 0's report; the others are silent."""
    if not share.is_main:
        yield None
        return
    with _writing(out):
        total = recipe.epochs * recipe.steps_per_epoch
        report = Report(recipe.name, recipe.metric, total, out / "tensorboard", state.history)
    with report:
        yield report


def _epoch(
    state: TrainingState, recipe: Recipe, step: nn.Module, *, seed: int, share: Share, report: Report | None
) -> float:
    """One pass over the training batches; returns the mean loss."""
    device = next(state.model.parameters()).device
    # Seeded by epoch and not carried on, so that a resumed run needs no generator state.
    torch.manual_seed(seed * 1_000_003 + state.epoch)
    state.model.train()
    total, steps = 0.0, 0
    for batch in share.shard(recipe.batches(np.random.default_rng((seed, state.epoch)))):
        with torch.autocast(device.type, torch.bfloat16, enabled=_bfloat16(recipe, device)):
            loss = step({key: value.to(device) for key, value in batch.items()})
        value = share.mean(loss)
        if not math.isfinite(value):
            raise TrainError(f"{recipe.name}: the loss is {value} in epoch {state.epoch}: lower the learning rate.")
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
        state.optimizer.step()
        state.schedule.step()
        if state.average is not None:
            state.average.update_parameters(state.model)
        total, steps = total + value, steps + 1
        if report is not None:
            report.step(state.epoch * recipe.steps_per_epoch + steps, value)
    if steps == 0:
        raise TrainError(f"{recipe.name}: an epoch without a batch: the training split is empty.")
    return total / steps


def _bfloat16(recipe: Recipe, device: torch.device) -> bool:
    """Always on a GPU; on a processor where the recipe asks for it and the processor computes in it."""
    if device.type == "cuda":
        return True
    return recipe.bfloat16 and any(torch.cpu.get_capabilities().get(name, False) for name in NATIVE_BFLOAT16)


def _validate(state: TrainingState, recipe: Recipe) -> dict[str, float]:
    state.judged.eval()
    with torch.no_grad():
        return recipe.validate(state.judged)


def _row(state: TrainingState, recipe: Recipe, loss: float, figures: dict[str, float]) -> dict[str, float]:
    """An epoch's line of the history."""
    if recipe.metric is not None and not math.isfinite(figures.get(recipe.metric, math.nan)):
        raise TrainError(
            f"{recipe.name}: validation gives no finite {recipe.metric!r} in epoch {state.epoch} "
            f"(it gives {figures}): is the validation split empty, or the metric's name wrong?"
        )
    rate = state.schedule.get_last_lr()[0]
    return {"epoch": float(state.epoch), "train_loss": loss, "learning_rate": float(rate), **figures}


def _kept(history: Sequence[dict[str, float]], metric: str | None) -> dict[str, float]:
    """The epoch with the highest metric, the first of equals; the last epoch where nothing is chosen."""
    return history[-1] if metric is None else max(history, key=lambda row: row[metric])


def _finished(state: TrainingState, recipe: Recipe) -> bool:
    if state.epoch >= recipe.epochs:
        return True
    if not (recipe.patience and state.history):
        return False
    return state.epoch - 1 - _kept(state.history, recipe.metric)["epoch"] >= recipe.patience


def _keep(state: TrainingState, recipe: Recipe, out: Path, seed: int) -> None:
    """Close the epoch: write the checkpoint if it is the one to keep, then the resume state, in this order.

    A kill between the two repeats the epoch and writes the same checkpoint again.
    """
    row = state.history[-1]
    if _kept(state.history, recipe.metric) is row:
        figures = {name: value for name, value in row.items() if name not in ("epoch", "learning_rate")}
        with torch.no_grad():
            config = recipe.config if recipe.calibrate is None else recipe.calibrate(state.judged)
        checkpoint.save(
            out / f"{recipe.name}.safetensors",
            state.judged.state_dict(),
            config,
            name=recipe.name,
            about={**recipe.about, "seed": seed, "epoch": state.epoch - 1, "validation": figures},
            int8_keys=recipe.int8_keys,
        )
    save(state, recipe, out / "resume.pt", seed)


def _results(state: TrainingState, recipe: Recipe, out: Path, seed: int, share: Share) -> Results:
    """Sum up; the files are written once the training has ended."""
    device = next(state.model.parameters()).device
    _, metadata = checkpoint.load(out / f"{recipe.name}.safetensors")
    results: Results = {
        "recipe": recipe.name,
        "seed": seed,
        "metric": recipe.metric,
        "kept": _kept(state.history, recipe.metric),
        "epochs": state.epoch,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "seconds": round(state.elapsed_s, 1),
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "workers": share.workers,
        "precision": "bfloat16" if _bfloat16(recipe, device) else "float32",
        "sha256": metadata.sha256,
        "about": dict(recipe.about),
        "history": state.history,
    }
    if _finished(state, recipe):
        with _writing(out):
            draw_curves(state.history, recipe.metric, out / "curves.png")
            (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return results
