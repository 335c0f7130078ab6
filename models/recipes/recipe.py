"""What a recipe is: everything the loop in `models/train.py` needs to train one network."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import Config

Batch = Mapping[str, Tensor]
"""One step's input; every tensor is moved to the training device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything needed to train one network; the loop adds nothing of its own.

    Attributes:
        name: The network's name, and the stem of the checkpoint that is written.
        config: The architecture, saved in the checkpoint.
        build: The network, freshly initialised (or from pretrained weights).
        batches: One epoch of batches, shuffled and augmented by the given generator.
        steps_per_epoch: How many batches an epoch has (for the schedule).
        loss: The loss of one batch, a scalar; class weights and label smoothing belong in here.
        validate: Figures on the validation split; the model is in `eval` mode, without gradients.
        metric: Which of those figures chooses the best epoch; higher is better. None keeps the last epoch, whatever it
            gives: nothing is chosen.
        epochs: How many.
        learning_rate: Peak of the warm-up, then cosine to zero.
        weight_decay: AdamW's, on tensors of two or more dimensions only.
        warmup_fraction: Part of all steps.
        clip_norm: Largest gradient norm.
        average_decay: Validate and keep an exponential moving average of the weights; 1 averages over the whole training, later
            steps counting more; 0 keeps the weights themselves.
        patience: Epochs without a better metric after which the training stops; 0 trains to the end.
        bfloat16: Compute in bfloat16 where the processor can (autocast); on a GPU that is always so.
        calibrate: The architecture with temperatures fitted on the validation split, asked whenever an epoch is kept; the
            model is in `eval` mode, without gradients. None keeps `config`.
        int8_keys: Matrices of the state dict to store in 8 bits (`models.checkpoint.save`).
        about: For the card: data, licence, split, counts of skipped rows.
    """

    name: str
    config: Config
    build: Callable[[], nn.Module]
    batches: Callable[[np.random.Generator], Iterable[Batch]]
    steps_per_epoch: int
    loss: Callable[[nn.Module, Batch], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    metric: str | None
    epochs: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    clip_norm: float = 1.0
    average_decay: float = 0.0
    patience: int = 0
    bfloat16: bool = False
    calibrate: Callable[[nn.Module], Config] | None = None
    int8_keys: frozenset[str] = frozenset()
    about: Mapping[str, Any] = field(default_factory=dict)


def balanced_class_weights(labels: np.ndarray[Any, Any], classes: int, power: float = 1.0) -> Tensor:
    """Weights (classes,) proportional to `1 / count ** power`, with mean 1 over the samples; absent classes get 0."""
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    raw = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    return torch.from_numpy((raw * counts.sum() / (raw * counts).sum()).astype(np.float32))
