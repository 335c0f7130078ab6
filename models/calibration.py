"""Making probabilities mean what they say: one temperature per head."""

import math
from typing import TypedDict

import torch
from torch import Tensor, nn


class Temperatures(TypedDict):
    """One per question, named as in the configurations of the networks that answer both."""

    emotion_temperature: float
    polarity_temperature: float


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature in [0.25, 4] whose softmax(logits / T) (N, classes) has the least cross-entropy with labels (N,).

    Guo et al. 2017, arXiv:1706.04599, section 4.2; a fine search instead of a descent, because there is one number.
    """
    grid = torch.logspace(math.log10(0.25), math.log10(4), 241, dtype=torch.float64)
    losses = [nn.functional.cross_entropy(logits.double() / t, labels) for t in grid]
    return float(grid[int(torch.stack(losses).argmin())])
