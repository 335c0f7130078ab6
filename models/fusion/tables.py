"""Fusion of published tables of measurements (MOSI, RAVDESS A+V): a linear encoder per modality, then attention.

The tables are small (1,447 and 315 utterances), so an encoder is one linear map of standardised measurements, whose logits
are embedding and own answer at once. `FusionNetwork` puts together those that are present.

Shapes: B utterances, M modalities, D_m measurements, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import FusionInputError
from models.fusion.attention import PROBABILITY_MIN, FusionNetwork, subsets
from models.types import FloatArray, Modality

CLIP = 3.0
"""Standardised measurements are clipped here: a single outlier cannot decide alone."""


@dataclass(frozen=True, slots=True)
class TableConfig:
    """Architecture of a table's network.

    Attributes:
        modalities: Names, in the table's order.
        lengths: Measurements of each.
        labels: The classes.
        width: Of a token of the fusion.
        heads: Attention heads; must divide `width`.
        dropout: On embeddings and inside the block, while training.
    """

    modalities: tuple[str, ...]
    lengths: tuple[int, ...]
    labels: tuple[str, ...]
    width: int = 8
    heads: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        known = [modality.value for modality in Modality]
        if not set(self.modalities) <= set(known) or len(set(self.modalities)) != len(self.lengths):
            raise ValueError(f"modalities must be of {known}, each once and with its length, not {self.modalities}")
        if not all(1 <= length <= 8192 for length in self.lengths) or not 2 <= len(self.labels) <= 100:
            raise ValueError("lengths must be in [1, 8192], and labels 2 to 100")
        if not 1 <= self.width <= 4096 or not 1 <= self.heads <= 64 or self.width % self.heads:
            raise ValueError("width must be in [1, 4096] and heads, in [1, 64], must divide it")

    @property
    def embeddings(self) -> tuple[int, ...]:
        """An encoder's logits are its embedding."""
        return (self.answers,) * len(self.lengths)

    @property
    def answers(self) -> int:
        """One per class."""
        return len(self.labels)


class TableNetwork(nn.Module):
    """Measurements of the modalities present to class logits.

    `center` and `scale` standardise; `own` are the encoders, fitted before the training and kept as they are; `context`
    is how much a modality's mean over the other utterances of the group counts beside the utterance itself.
    """

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        sizes = config.lengths
        self.center = nn.ParameterList(nn.Parameter(torch.zeros(size), requires_grad=False) for size in sizes)
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(size), requires_grad=False) for size in sizes)
        self.own = nn.ModuleList(nn.Linear(size, config.answers) for size in sizes).requires_grad_(requires_grad=False)
        self.context = nn.Parameter(torch.zeros(len(sizes)))
        self.fusion = FusionNetwork(config)

    def encode(self, measured: Sequence[Tensor]) -> Tensor:
        """Each encoder's logits (B, M, C) of measurements (B, D_m); NaN counts as the middle of the training data."""
        parts = zip(measured, self.center, self.scale, self.own, strict=True)
        return torch.stack([own(standardised(x, center, scale)) for x, center, scale, own in parts], dim=1)

    def answers(self, own: Tensor, around: Tensor) -> Tensor:
        """Log probabilities (B, M, C) of each modality alone; see `forward`."""
        return (own + self.context[:, None] * around).log_softmax(dim=2).clamp_min(math.log(PROBABILITY_MIN))

    def forward(self, own: Tensor, around: Tensor, present: Tensor) -> Tensor:
        """Fuse what is present.

        Args:
            own: (B, M, C), see `encode`.
            around: (B, M, C), see `mean_of_others`.
            present: (B, M), True where a modality is.

        Returns:
            Logits (B, C).
        """
        answers = self.answers(own, around)
        return self.fusion.logits(answers.unbind(dim=1), answers, present)[0]


def standardised(x: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """Measurements (B, D) around 0 in [-3, 3]; NaN becomes 0."""
    return ((x - center) / scale).nan_to_num(0.0, CLIP, -CLIP).clamp(-CLIP, CLIP)


def mean_of_others(own: FloatArray, groups: NDArray[np.str_]) -> FloatArray:
    """The mean logits (N, M, C) over the other rows of each row's group; zeros where there is none."""
    _, group = np.unique(groups, return_inverse=True)
    total = np.zeros((group.max() + 1, *own.shape[1:]), dtype=np.float32)
    np.add.at(total, group, own)
    rest = np.bincount(group)[group] - 1
    return (
        np.asarray((total[group] - own) / np.maximum(rest, 1)[:, None, None], dtype=np.float32)
        * (rest > 0)[:, None, None]
    )


@torch.no_grad()
def probabilities(
    network: TableNetwork, measured: Mapping[Modality, FloatArray], groups: NDArray[np.str_]
) -> dict[str, FloatArray]:
    """What the network says (N, C) to every subset of modalities, named like `audio+text`, and `averaged`.

    `averaged` is the mean of what the encoders say by themselves.

    Args:
        network: In any mode; it is put into `eval` mode.
        measured: Per modality, in the order of `TableConfig.modalities`, (N, D_m); NaN where a measurement is missing.
        groups: (N,), the video or speaker of each row.

    Raises:
        FusionInputError: The network was trained with other measurements.
    """
    given = {modality: values.shape[1] for modality, values in measured.items()}
    wanted = [len(center) for center in network.center]
    if list(given.values()) != wanted:
        raise FusionInputError(f"the table has {given} measurements, the network was trained with {wanted}.")
    network.eval()
    device = network.context.device
    own = network.encode([torch.from_numpy(values).to(device) for values in measured.values()])
    around = torch.from_numpy(mean_of_others(own.cpu().numpy(), groups)).to(device)
    # A modality of which nothing was measured is absent.
    there = torch.from_numpy(np.stack([np.isfinite(x).any(axis=1) for x in measured.values()], axis=1)).to(device)
    found = {}
    for subset in subsets(tuple(given)):
        wanted_here = torch.tensor([modality in subset for modality in given], device=device)
        found["+".join(subset)] = network(own, around, there & wanted_here).softmax(dim=1).cpu().numpy()
    alone = network.answers(own, around).exp() * there[..., None]
    found["averaged"] = (alone.sum(dim=1) / there.sum(dim=1, keepdim=True)).cpu().numpy()
    return found
