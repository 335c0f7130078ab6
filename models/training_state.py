"""Everything that changes in a training: made, written between two epochs, and read again by the command that goes on."""

import io
import json
import math
import pickle  # only the name of its error: nothing is unpickled freely
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.errors import TrainError
from models.recipes.recipe import Recipe
from models.share import Share


@dataclass
class TrainingState:
    """Everything that changes while training, and is saved for a resume."""

    model: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    epoch: int = 0
    elapsed_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def judged(self) -> nn.Module:
        """The weights that are validated and kept."""
        return self.model if self.average is None else self.average.module


def start(recipe: Recipe, device: torch.device) -> TrainingState:
    """A training before its first step: network, AdamW, warm-up and cosine, and the moving average if there is one."""
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
    return TrainingState(model, average, optimizer, schedule)


def _average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """How each step changes the average: exponentially, or with a decay of 1 over the whole training.

    The first forgets its first, random weights sooner, by a decay of at most (1 + n) / (10 + n). In the second a step counts
    almost by its number (polynomial-decay averaging: Shamir & Zhang 2013, arXiv:1212.1824, section 4, eta = 1).
    """
    offset = 10 if decay < 1 else 3

    def update(kept: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        part = 1 - min(decay, (1 + int(count)) / (offset + int(count)))
        for old, new in zip(kept, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new.to(old.dtype), part)
            else:
                old.copy_(new)

    return update


def save(state: TrainingState, recipe: Recipe, path: Path, seed: int) -> None:
    """Write the state of a training between two epochs in one step.

    Raises:
        OSError: No room, or no right to write.
    """
    saved = {
        "recipe": recipe.name,
        "seed": seed,
        "settings": _settings(recipe),
        "model": state.model.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "epoch": state.epoch,
        "elapsed_s": state.elapsed_s,
        "history": state.history,
    }
    content = io.BytesIO()  # torch's own writer turns a full disk into an error that does not say so
    torch.save(saved, content)
    unfinished = path.with_suffix(".pt.tmp")
    unfinished.write_bytes(content.getbuffer())
    unfinished.replace(path)


def resume(state: TrainingState, recipe: Recipe, path: Path, seed: int, share: Share) -> None:
    """Go on from the state in the file, which worker 0 reads for all; without one, nothing changes.

    Raises:
        TrainError: The file is damaged, or belongs to another recipe, seed, network, data or settings.
    """
    saved = share.broadcast(_read(path) if share.is_main else None)
    if saved is None:
        return
    if (saved["recipe"], saved["seed"]) != (recipe.name, seed):
        raise TrainError(
            f"{path.parent} holds a training of {saved['recipe']!r} with seed {saved['seed']}: "
            "give another folder, the same recipe and seed, or delete it."
        )
    try:
        state.model.load_state_dict(saved["model"])
        if state.average is not None:
            state.average.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.schedule.load_state_dict(saved["schedule"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainError(
            f"{path} belongs to another version of the recipe {recipe.name!r}, whose network differs: give another "
            f"folder, or delete this one to start anew ({' '.join(str(error).split())[:200]})."
        ) from error
    if saved["settings"] != _settings(recipe):
        raise TrainError(
            f"{path.parent} holds a training of {recipe.name!r} on other data or with other settings: give another folder, "
            "the same data and version, or delete it."
        )
    state.epoch, state.elapsed_s, state.history = saved["epoch"], saved["elapsed_s"], saved["history"]


def _settings(recipe: Recipe) -> str:
    """What must be the same for an interrupted training to end as an undisturbed one."""
    values = {one.name: getattr(recipe, one.name) for one in fields(recipe)}
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return json.dumps([numbers, repr(recipe.config), recipe.metric, dict(recipe.about)], sort_keys=True, default=str)


def _read(path: Path) -> dict[str, Any] | None:
    """The saved state; None where nothing was saved. Nothing in the file is executed."""
    damaged = f"{path} is damaged or no state of a training: delete it to start anew, or name another folder."
    try:
        saved = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrainError(f"cannot read {path} ({error.strerror}): name another folder.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise TrainError(damaged) from error
    wanted = {
        "recipe",
        "seed",
        "settings",
        "model",
        "average",
        "optimizer",
        "schedule",
        "epoch",
        "elapsed_s",
        "history",
    }
    if not isinstance(saved, dict) or not wanted <= saved.keys():
        raise TrainError(damaged)
    return saved
