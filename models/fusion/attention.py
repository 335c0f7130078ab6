"""Fusion by attention over the modalities that are present, whose evidence adds up.

Every present encoder gives a token; the tokens pass one transformer block of self-attention; from each token then follow
its weight (exp of an attention logit) and its evidence (log odds of the answers). The answer is the prior plus the sum of
weight times evidence. This is attention (Bahdanau et al. 2015, arXiv:1409.0473) without its final division, so that
agreeing modalities reinforce each other as independent witnesses would (Hinton 2002, products of experts); divided by
their sum, the weights are reported. With no modality the answer is the prior.

Shapes: B utterances, M modalities (all 3 in the order of `Modality`, for `AttentionFusion`), D width, L answers (log
probabilities) of one modality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import FusionInputError
from models.labels import score_of
from models.types import (
    EMOTIONS,
    POLARITIES,
    Contribution,
    Features,
    FloatArray,
    FusedPrediction,
    Modality,
    Prediction,
)

MODALITIES = tuple(Modality)
ANSWERS = len(EMOTIONS) + len(POLARITIES)
PROBABILITY_MIN = 1e-4
"""Probabilities are clipped here before the logarithm: one encoder can argue for at most 9.2 nats."""


class Shape(Protocol):
    """The numbers that `FusionNetwork` is built from; see `FusionConfig` for what they mean."""

    @property
    def embeddings(self) -> tuple[int, ...]: ...  # noqa: D102  # see FusionConfig
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102
    @property
    def answers(self) -> int:
        """How many log probabilities a modality gives (L), and the fusion answers with."""


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Architecture of the fusion.

    Attributes:
        embeddings: Length of each encoder's embedding, in the order of `Modality`.
        width: Of a token.
        heads: Attention heads; must divide `width`.
        dropout: On embeddings and inside the block, while training.
        emotion_temperature: What emotion logits are divided by before the softmax (Guo et al. 2017, arXiv:1706.04599, section 4.2).
        polarity_temperature: Likewise.
    """

    embeddings: tuple[int, ...] = (128, 128, 384)
    width: int = 32
    heads: int = 4
    dropout: float = 0.3
    emotion_temperature: float = 1.0
    polarity_temperature: float = 1.0

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(MODALITIES) or not all(1 <= size <= 8192 for size in self.embeddings):
            raise ValueError(f"embeddings must be {len(MODALITIES)} lengths in [1, 8192], not {self.embeddings}")
        if not 1 <= self.width <= 4096 or not 1 <= self.heads <= 64 or self.width % self.heads:
            raise ValueError("width must be in [1, 4096] and heads, in [1, 64], must divide it")
        if not all(0.05 <= t <= 20 for t in (self.emotion_temperature, self.polarity_temperature)):
            raise ValueError("temperatures must be in [0.05, 20]")

    @property
    def answers(self) -> int:
        """Seven emotions and three polarities."""
        return ANSWERS


def subsets(modalities: tuple[Modality, ...]) -> list[tuple[Modality, ...]]:
    """Every subset but the empty one; the last is the whole."""
    return [one for size in range(1, len(modalities) + 1) for one in combinations(modalities, size)]


class FusionNetwork(nn.Module):
    """Tokens of the present modalities to logits and one weight per modality."""

    def __init__(self, config: Shape) -> None:
        super().__init__()
        self.heads = config.heads
        self.embed = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(size, elementwise_affine=False),
                nn.Dropout(config.dropout),
                nn.Linear(size, config.width, bias=False),
            )
            for size in config.embeddings
        )
        modalities, answers = len(config.embeddings), config.answers
        self.answer = nn.ModuleList(nn.Linear(answers, config.width) for _ in range(modalities))
        self.norm = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.attended = nn.Linear(config.width, config.width)
        self.widen = nn.Linear(config.width, 2 * config.width)
        self.narrow = nn.Linear(2 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.weight = nn.Linear(config.width, 1)
        self.refine = nn.Linear(config.width, answers)
        # What an encoder says of each class argues for that class until training knows better.
        identity = torch.zeros(modalities, answers, answers)
        # Not torch.eye: on the meta device, where checkpoints are restored, it would import torch's compiler (4 s).
        identity.diagonal(dim1=1, dim2=2).fill_(1)
        self.evidence = nn.Parameter(identity)
        self.bias = nn.Parameter(torch.zeros(modalities, answers))
        self.prior = nn.Parameter(torch.zeros(answers))
        for last in (self.weight, self.refine):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, embeddings: Sequence[Tensor], answers: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse what is present: `logits` of `FusionConfig`, split into its two questions.

        Returns:
            Emotion logits (B, 7), polarity logits (B, 3), and weights (B, M), 0 where absent.
        """
        logits, weight = self.logits(embeddings, answers, present)
        emotion, polarity = torch.split(logits, [len(EMOTIONS), len(POLARITIES)], dim=1)
        return emotion, polarity, weight

    def logits(self, embeddings: Sequence[Tensor], answers: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse what is present.

        Args:
            embeddings: Per modality (B, E_m); rows of absent modalities may hold any finite value.
            answers: Log probabilities (B, M, L); likewise.
            present: (B, M), True where a modality is.

        Returns:
            Logits (B, L), and weights (B, M), 0 where absent.
        """
        tokens = [
            embed(embedding) + answer(answers[:, place])
            for place, (embed, answer, embedding) in enumerate(zip(self.embed, self.answer, embeddings, strict=True))
        ]
        x = self.self_attention(torch.stack(tokens, dim=1), present)
        weight = self.weight(x)[..., 0].exp() * present
        evidence = torch.einsum("bmi,mij->bmj", answers, self.evidence) + self.bias + self.refine(x)
        evidence = evidence * present[..., None]
        return self.prior + (weight[..., None] * evidence).sum(dim=1), weight

    def self_attention(self, x: Tensor, present: Tensor) -> Tensor:
        """One pre-norm transformer block over the present tokens, (B, M, D) to (B, M, D)."""
        q, k, v = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # A token always sees itself, so that the softmax of an absent one is defined (its result counts nowhere).
        mask = present[:, None, None, :] | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.attended(y))
        y = self.narrow(functional.gelu(self.widen(x)))
        return cast(Tensor, x + self.dropout(y))


class AttentionFusion:
    """The trained fusion; its `network` and `temperatures` are public for judging many label pairs at once.

    Args:
        network: In `eval` mode.
        config: Its architecture.
        name: Name and hash; a result puts the bundle's name before it: `embedded/fusion@1a2b3c4d`.
        device: Where it runs.
    """

    def __init__(self, network: FusionNetwork, config: FusionConfig, *, name: str, device: str = "cpu") -> None:
        self.name = name
        self.temperatures = (config.emotion_temperature, config.polarity_temperature)
        self._config = config
        self._device = torch.device(device)
        self.network = network.eval().to(self._device)

    def fuse(self, batch: Sequence[Mapping[Modality, Features]]) -> list[FusedPrediction]:
        """Judge utterances by whatever modalities each has; contributions by leaving one out at a time.

        Raises:
            FusionInputError: An utterance without modality, or an embedding of another length.
        """
        for present in batch:
            if not present:
                raise FusionInputError("an utterance without any modality cannot be fused: report why each is missing.")
        subsets: list[Mapping[Modality, Features]] = []
        for present in batch:
            subsets += [present, *(_without(present, modality) for modality in _ordered(present))]
        predictions, weights = self._answer(subsets)
        fused, row = [], 0
        for present in batch:
            whole = predictions[row]
            contributions = {
                modality: _difference(whole, predictions[row + 1 + place])
                for place, modality in enumerate(_ordered(present))
            }
            share = {modality: float(weights[row, MODALITIES.index(modality)]) for modality in _ordered(present)}
            fused.append(FusedPrediction(whole, share, contributions))
            row += 1 + len(present)
        return fused

    def probe(self) -> dict[Modality, Features]:
        """A text of which its encoder says nothing."""
        size = self._config.embeddings[MODALITIES.index(Modality.TEXT)]
        even = [np.full(size, 1 / size, dtype=np.float32) for size in (len(POLARITIES), len(EMOTIONS))]
        unsure = Prediction(0.0, *even)
        return {Modality.TEXT: Features(Modality.TEXT, np.zeros(size, dtype=np.float32), unsure)}

    def prior(self) -> Prediction:
        """The answer to an utterance of which nothing is known."""
        return self._answer([{}])[0][0]

    @torch.inference_mode()
    def _answer(self, subsets: Sequence[Mapping[Modality, Features]]) -> tuple[list[Prediction], FloatArray]:
        if not subsets:
            return [], np.zeros((0, len(MODALITIES)), dtype=np.float32)
        embeddings, answers, present = as_tensors(subsets, self._config)
        emotion, polarity, weight = self.network(
            [embedding.to(self._device) for embedding in embeddings],
            answers.to(self._device),
            present.to(self._device),
        )
        emotions = (emotion.float() / self.temperatures[0]).softmax(dim=1).cpu().numpy()
        poles = (polarity.float() / self.temperatures[1]).softmax(dim=1).cpu().numpy()
        weights = (weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-9)).float().cpu().numpy()
        predictions = [Prediction(score_of(p), p, e) for e, p in zip(emotions, poles, strict=True)]
        return predictions, weights


def as_tensors(
    batch: Sequence[Mapping[Modality, Features]], config: FusionConfig
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Lay features out as `FusionNetwork` reads them; the places of absent modalities are masked, not data.

    Raises:
        FusionInputError: An embedding of another length.
    """
    embeddings = [np.zeros((len(batch), size), dtype=np.float32) for size in config.embeddings]
    answers = np.zeros((len(batch), len(MODALITIES), ANSWERS), dtype=np.float32)
    present = np.zeros((len(batch), len(MODALITIES)), dtype=bool)
    for row, features in enumerate(batch):
        for modality, one in features.items():
            place = MODALITIES.index(modality)
            if one.embedding.shape != (config.embeddings[place],):
                raise FusionInputError(
                    f"the {modality} embedding has shape {one.embedding.shape}, the fusion was trained with "
                    f"({config.embeddings[place]},): use encoders and fusion of one bundle."
                )
            embeddings[place][row] = one.embedding
            answers[row, place] = log_answers(one.prediction)
            present[row, place] = True
    return [torch.from_numpy(part) for part in embeddings], torch.from_numpy(answers), torch.from_numpy(present)


def log_answers(prediction: Prediction) -> FloatArray:
    """Clipped log probabilities (10,) of the seven emotions and the three polarities."""
    answers = np.concatenate([prediction.emotion, prediction.polarity])
    return np.asarray(np.log(np.maximum(answers, PROBABILITY_MIN)), dtype=np.float32)


def _ordered(present: Mapping[Modality, Features]) -> list[Modality]:
    return [modality for modality in MODALITIES if modality in present]


def _without(present: Mapping[Modality, Features], left_out: Modality) -> dict[Modality, Features]:
    return {modality: features for modality, features in present.items() if modality is not left_out}


def _difference(whole: Prediction, rest: Prediction) -> Contribution:
    return Contribution(whole.score - rest.score, whole.polarity - rest.polarity, whole.emotion - rest.emotion)
