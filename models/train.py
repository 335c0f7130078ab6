"""One readable training loop: AdamW, warm-up and cosine, clipping, the best epoch kept, exact resume after a kill.

What is trained stands in `models/recipes/`. The loop writes into one folder: `NAME.safetensors` (the best epoch so
far), `results.json`, and `resume.pt` (read with `weights_only=True`), from which the same command goes on.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models import checkpoint
from models.recipes import RECIPES, Recipe

Results = dict[str, Any]


class TrainError(ValueError):
    """The training cannot start or go on; the message says what to do next."""


@dataclass
class _Run:
    """Everything that changes while training, and is saved for a resume."""

    model: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    epoch: int = 0
    best: float = -math.inf
    elapsed_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def judged(self) -> nn.Module:
        """The weights that are validated and kept."""
        return self.model if self.average is None else self.average.module


def run(recipe_name: str, data: Path, out: Path, seed: int = 0) -> Results:
    """Train the named recipe on `data` into the folder `out`; this is `undertone train`.

    Raises:
        TrainError: No such recipe, or `out` holds another training.
    """
    if recipe_name not in RECIPES:
        raise TrainError(f"no recipe {recipe_name!r}: choose one of {', '.join(sorted(RECIPES))}.")
    return train(RECIPES[recipe_name](data), out, seed)


def train(recipe: Recipe, out: Path, seed: int = 0, *, stop_after_epochs: int | None = None) -> Results:
    """Train to the recipe's last epoch, going on from `out/resume.pt` when it is there.

    Args:
        recipe: What to train.
        out: Folder for checkpoint, results and resume state.
        seed: Seeds initialisation, order, augmentation and dropout; the same seed on the same machine gives the
            same weights, with or without an interruption.
        stop_after_epochs: Leave early after so many epochs in this call, as if killed between two epochs.

    Returns:
        What `results.json` holds: recipe, seed, best epoch and its figures, history, seconds, machine, SHA-256.

    Raises:
        TrainError: The loss is not finite, or `out` holds another training.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    state = _start(recipe, device)
    _resume(state, recipe, out / "resume.pt", seed)
    last = recipe.epochs if stop_after_epochs is None else min(recipe.epochs, state.epoch + stop_after_epochs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(recipe.name, total=recipe.epochs * recipe.steps_per_epoch)
        while state.epoch < last:
            progress.update(task, completed=state.epoch * recipe.steps_per_epoch)
            started = time.monotonic()
            loss = _epoch(state, recipe, device, seed, lambda: progress.advance(task))
            figures = _validate(state, recipe)
            state.elapsed_s += time.monotonic() - started
            _keep(state, recipe, out, seed, {"train_loss": loss, **figures})
            progress.update(task, description=f"{recipe.name} {recipe.metric} {figures[recipe.metric]:.4f}")
            progress.console.print(json.dumps(state.history[-1]), soft_wrap=True)
        progress.update(task, completed=state.epoch * recipe.steps_per_epoch)
    return _results(state, recipe, out, seed, device)


def _start(recipe: Recipe, device: torch.device) -> _Run:
    model = recipe.build().to(device)
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    total = recipe.epochs * recipe.steps_per_epoch
    warmup = max(1, round(total * recipe.warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    average = None
    if recipe.average_decay > 0:
        average = AveragedModel(model, multi_avg_fn=_average(recipe.average_decay), use_buffers=True)
    return _Run(model, average, optimizer, schedule)


def _average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """An exponential moving average that forgets its first, random weights sooner: decay at most (1 + n) / (10 + n)."""

    def update(kept: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        part = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for old, new in zip(kept, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new.to(old.dtype), part)
            else:
                old.copy_(new)

    return update


def _epoch(state: _Run, recipe: Recipe, device: torch.device, seed: int, advance: Callable[[], None]) -> float:
    """One pass over the training batches; returns the mean loss."""
    # Seeded by epoch and not carried on, so that a resumed run needs no generator state.
    torch.manual_seed(seed * 1_000_003 + state.epoch)
    state.model.train()
    total, steps = 0.0, 0
    for batch in recipe.batches(np.random.default_rng((seed, state.epoch))):
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = recipe.loss(state.model, {key: value.to(device) for key, value in batch.items()})
        value = loss.item()
        if not math.isfinite(value):
            raise TrainError(f"{recipe.name}: the loss is {value} in epoch {state.epoch}: lower the learning rate.")
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
        state.optimizer.step()
        state.schedule.step()
        if state.average is not None:
            state.average.update_parameters(state.model)
        total, steps = total + value, steps + 1
        advance()
    if steps == 0:
        raise TrainError(f"{recipe.name}: an epoch without a batch: the training split is empty.")
    return total / steps


def _validate(state: _Run, recipe: Recipe) -> dict[str, float]:
    state.judged.eval()
    with torch.no_grad():
        return recipe.validate(state.judged)


def _keep(state: _Run, recipe: Recipe, out: Path, seed: int, figures: dict[str, float]) -> None:
    """Close the epoch: keep the checkpoint if it is the best, then the resume state, in this order.

    A kill between the two repeats the epoch and writes the same checkpoint again.
    """
    state.history.append({"epoch": float(state.epoch), **figures})
    if figures[recipe.metric] > state.best:
        state.best = figures[recipe.metric]
        about = {**recipe.about, "seed": seed, "epoch": state.epoch, "validation": figures}
        checkpoint.save(
            out / f"{recipe.name}.safetensors",
            state.judged.state_dict(),
            recipe.config,
            name=recipe.name,
            about=about,
            int8_keys=recipe.int8_keys,
        )
    state.epoch += 1
    saved = {
        "recipe": recipe.name,
        "seed": seed,
        "model": state.model.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "epoch": state.epoch,
        "best": state.best,
        "elapsed_s": state.elapsed_s,
        "history": state.history,
    }
    unfinished = out / "resume.pt.tmp"
    torch.save(saved, unfinished)
    unfinished.replace(out / "resume.pt")


def _resume(state: _Run, recipe: Recipe, path: Path, seed: int) -> None:
    if not path.exists():
        return
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if (saved["recipe"], saved["seed"]) != (recipe.name, seed):
        raise TrainError(
            f"{path.parent} holds a training of {saved['recipe']!r} with seed {saved['seed']}: "
            "give another folder, the same recipe and seed, or delete it."
        )
    state.model.load_state_dict(saved["model"])
    if state.average is not None:
        state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.schedule.load_state_dict(saved["schedule"])
    state.epoch, state.best = saved["epoch"], saved["best"]
    state.elapsed_s, state.history = saved["elapsed_s"], saved["history"]


def _results(state: _Run, recipe: Recipe, out: Path, seed: int, device: torch.device) -> Results:
    best = max(state.history, key=lambda row: row[recipe.metric])
    _, metadata = checkpoint.load(out / f"{recipe.name}.safetensors")
    results: Results = {
        "recipe": recipe.name,
        "seed": seed,
        "metric": recipe.metric,
        "best": best,
        "epochs": state.epoch,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "seconds": round(state.elapsed_s, 1),
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "sha256": metadata.sha256,
        "about": dict(recipe.about),
        "history": state.history,
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return results
