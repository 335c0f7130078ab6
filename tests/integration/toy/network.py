"""A toy text encoder: how often a text has each letter, and two linear layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import TextInputError
from models.labels import emotion_matrix, prediction_from_emotions
from models.types import Features, FloatArray, Modality, Spoken

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LABELS = ("anger", "joy")


@dataclass(frozen=True, slots=True)
class ToyConfig:
    """Architecture: the length of the embedding, which the embedded fusion was trained with."""

    embedding: int = 384


class ToyNetwork(nn.Module):
    """Shares of letters (B, 26) to embeddings (B, D) and logits (B, 2)."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(len(LETTERS), config.embedding)
        self.head = nn.Linear(config.embedding, len(LABELS))

    def forward(self, letters: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embed(letters).relu()
        return embedding, self.head(embedding)


def prepare(spoken: Spoken) -> FloatArray:
    """The share of each letter (26,)."""
    counts = np.array([spoken.transcript.text.lower().count(letter) for letter in LETTERS], dtype=np.float32)
    if not counts.any():
        raise TextInputError("the text holds no letter: leave the text modality out.")
    shares: FloatArray = counts / counts.sum()
    return shares


class ToyEncoder:
    """The trained toy."""

    def __init__(self, network: ToyNetwork, config: ToyConfig, *, name: str, device: str = "cpu") -> None:
        self.name = name
        self._config = config
        self._device = torch.device(device)
        self._network = network.eval().to(self._device)
        self._to_emotion = emotion_matrix(LABELS)

    def probe(self) -> FloatArray:
        return np.full(len(LETTERS), 1 / len(LETTERS), dtype=np.float32)

    @torch.inference_mode()
    def encode(self, batch: Sequence[FloatArray]) -> list[Features]:
        embeddings, logits = self._network(torch.from_numpy(np.stack(batch)).to(self._device))
        emotions = logits.softmax(dim=1).cpu().numpy() @ self._to_emotion
        return [
            Features(Modality.TEXT, embedding, prediction_from_emotions(emotion))
            for embedding, emotion in zip(embeddings.cpu().numpy(), emotions, strict=True)
        ]
