"""The voice encoder: a small head on statistics of the first layers of Whisper's encoder, and beside it a residual network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders import whisper_weights
from models.encoders.mel import SOUND_MAX_S, LogMel, probe
from models.encoders.spectral import SpectralNetwork
from models.encoders.whisper_layers import STRIDE, WhisperLayers
from models.encoders.whisper_mel import MELS
from models.errors import AudioInputError
from models.labels import RAVDESS_LABELS, emotion_matrix, prediction_from_emotions
from models.types import Features, FeatureSequence, FloatArray, Modality, Timed

BATCH_CLIPS = 8
STATISTICS = 3
CHANGE_FRAMES = 2
STEP_FRAMES = 8
"""Frames that one vector of a sequence is the mean of: 160 ms."""


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """Architecture of the voice network; the defaults of its first half are Whisper's `tiny`.

    Attributes:
        width: Of Whisper's encoder.
        heads: Of its attention.
        layers: How many of its blocks are used.
        embedding: Length of each half's embedding.
        dropout: Behind the first half's embedding, while training; elsewhere less.
        widths: Channels of the second half, see `SpectralNetwork`.
        labels: Classes of the head, names that `models.labels.TO_EMOTION` knows.
        temperature: What logits are divided by before the softmax (Guo et al. 2017, arXiv:1706.04599, section 4.2).
    """

    width: int = 384
    heads: int = 6
    layers: int = 3
    embedding: int = 128
    dropout: float = 0.5
    widths: tuple[int, ...] = (24, 48, 96, 128)
    labels: tuple[str, ...] = RAVDESS_LABELS
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.heads <= 64 or not 2 <= self.width <= 2048 or self.width % (2 * self.heads):
            raise ValueError(f"width must be in [2, 2048] and even for each head, not {self.width} for {self.heads}")
        for name, most in {"layers": 32, "embedding": 4096}.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in [1, {most}], not {getattr(self, name)}")
        if not 2 <= len(self.widths) <= 6 or not all(isinstance(w, int) and 1 <= w <= 2048 for w in self.widths):
            raise ValueError(f"widths must be two to six numbers in [1, 2048], not {self.widths}")
        if not 0.05 <= self.temperature <= 20:
            raise ValueError(f"temperature must be in [0.05, 20], not {self.temperature}")


class VoiceNetwork(nn.Module):
    """Log-mels of any length, and the statistics of their Whisper frames, to an embedding and class logits.

    Two halves that err differently are heard together: one judges statistics of Whisper's frames, the other, `spectral`, was
    trained from nothing. Their logits are averaged, their embeddings lie side by side, D = 2 * `embedding`.
    `center` and `scale` (L * 3 * C,) are mean and deviation of the statistics in the training part.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        size, classes = config.layers * STATISTICS * config.width, len(config.labels)
        self.whisper = WhisperLayers(config.width, config.heads, config.layers).requires_grad_(requires_grad=False)
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.thin = nn.Dropout(0.4 * config.dropout)
        self.embed = nn.Linear(size, config.embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.embedding, classes)
        self.spectral = SpectralNetwork(config.widths, config.embedding, 0.8 * config.dropout, classes)

    def forward(self, pooled: Tensor, log_mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map `statistics` of log-mels (B, T, M), padded to the longest, with lengths (B,), to (B, D) and logits (B, classes)."""
        embedding, logits = self.halves(pooled, log_mel, lengths)
        return embedding, logits.mean(dim=0)

    def frames(self, log_mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels (B, T, M) with lengths (B,) to frames of each layer (B, L, T', C), and which are inside (B, T').

        Each frame is normalised by itself: later layers are larger, and a recording's own scale must not matter.
        """
        layers, inside = self.whisper(log_mel, lengths)
        return functional.layer_norm(layers, layers.shape[-1:]), inside

    def halves(self, pooled: Tensor, log_mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map `statistics` (B, L * 3 * C) and the log-mels they are of to embeddings (B, D) and each half's logits (2, B, classes)."""
        own = functional.relu(self.embed(self.thin((pooled - self.center) / self.scale)))
        other, logits = self.spectral(log_mel, lengths)
        return torch.cat([own.float(), other], dim=1), torch.stack([self.head(self.dropout(own)).float(), logits])


def statistics(frames: Tensor, inside: Tensor) -> Tensor:
    """Map frames (B, L, T', C) to their mean, deviation and root mean square change in 40 ms, (B, L * 3 * C).

    Statistics pooling (Snyder et al. 2017, doi:10.21437/Interspeech.2017-620, section 2.2), over the frames `inside` (B, T').
    """
    mask = inside[:, None, :, None].float()
    count = mask.sum(dim=2)
    mean = (frames * mask).sum(dim=2) / count
    variance = ((frames - mean[:, :, None]) ** 2 * mask).sum(dim=2) / count
    both = mask[:, :, CHANGE_FRAMES:]
    change = ((frames[:, :, CHANGE_FRAMES:] - frames[:, :, :-CHANGE_FRAMES]) ** 2 * both).sum(dim=2)
    change = change / both.sum(dim=2).clamp_min(1)
    roots = [(one + 1e-12).sqrt() for one in (variance, change)]
    return torch.stack([mean, *roots], dim=2).flatten(1)


def pad(batch: Sequence[LogMel]) -> tuple[Tensor, Tensor]:
    """Log-mels of several lengths as one zero-padded float32 tensor (B, T, M) and the lengths (B,)."""
    lengths = torch.tensor([len(item) for item in batch])
    padded = torch.zeros(len(batch), int(lengths.max()), batch[0].shape[1])
    for row, item in zip(padded, batch, strict=True):
        row[: len(item)] = torch.from_numpy(item.astype(np.float32))
    return padded, lengths


def pretrained(config: AudioConfig, name: str) -> VoiceNetwork:
    """A network whose Whisper blocks are the published ones, never trained; the rest is random.

    Args:
        config: Of the same width as the published network, which has at least as many blocks.
        name: A key of `models.encoders.whisper_weights.PACKED`.

    Raises:
        WhisperError: The published weights are not installed or damaged.
        KeyError: They have fewer blocks.
        RuntimeError: They are of another width.
    """
    network = VoiceNetwork(config)
    published = whisper_weights.openai_weights(whisper_weights.read(name, whisper_weights.MODEL)).state
    state = {
        key: torch.from_numpy(published[f"encoder.{key}"].astype(np.float32)) for key in network.whisper.state_dict()
    }
    network.whisper.load_state_dict(state)
    return network


def int8_keys(config: AudioConfig) -> frozenset[str]:
    """The matrices of Whisper's blocks and the filters of the residual network, which are stored in 8 bits."""
    with torch.device("meta"):
        weights = VoiceNetwork(config).state_dict()
    return frozenset(
        key for key, value in weights.items() if value.dim() > 1 and key.startswith(("whisper", "spectral"))
    )


class AudioEncoder:
    """The trained voice network.

    Args:
        network: In `eval` mode.
        config: Its architecture.
        name: Name and hash; a result puts the bundle's name before it: `embedded/audio@1a2b3c4d`.
        device: Where it runs.
    """

    def __init__(self, network: VoiceNetwork, config: AudioConfig, *, name: str, device: str = "cpu") -> None:
        self.name = name
        self.labels = config.labels
        self._device = torch.device(device)
        self._network = network.eval().to(self._device)
        self._temperature = config.temperature
        self._to_emotion = emotion_matrix(config.labels)

    def probe(self) -> LogMel:
        """Half a second of a tone."""
        return probe()

    def encode(self, batch: Sequence[LogMel | Timed[LogMel]]) -> list[Features]:
        """Judge utterances by what `mel.prepare` made of them, each (T, 80); the order is kept.

        The sequence of a `Timed` one has a vector per 160 ms.

        Raises:
            AudioInputError: An item that `mel.prepare` or `mel.prepare_timed` did not make.
        """
        return [
            Features(Modality.AUDIO, embedding, prediction_from_emotions(probabilities @ self._to_emotion), sequence)
            for embedding, probabilities, sequence in self._judge(batch)
        ]

    def classify(self, batch: Sequence[LogMel]) -> FloatArray:
        """Probabilities (N, classes) of the network's own classes."""
        return np.stack([probabilities for _, probabilities, _ in self._judge(batch)])

    @torch.inference_mode()
    def _judge(
        self, batch: Sequence[LogMel | Timed[LogMel]]
    ) -> list[tuple[FloatArray, FloatArray, FeatureSequence | None]]:
        """Per clip: embedding (D,), probabilities of the network's own classes (classes,), and the sequence if it is asked."""
        clips = [item.prepared if isinstance(item, Timed) else item for item in batch]
        for item, clip in zip(batch, clips, strict=True):
            if clip.ndim != 2 or clip.shape[1] != MELS or not 0 < len(clip) <= SOUND_MAX_S * 100:
                raise AudioInputError(f"expected a prepared log-mel (T, {MELS}), not {clip.shape}.")
            if len(item) != len(clip):
                raise AudioInputError(f"{len(item)} times for {len(clip)} rows: send what prepare_timed gave.")
        answers: dict[int, tuple[FloatArray, FloatArray, FeatureSequence | None]] = {}
        # By length, so that a batch is not mostly padding.
        order = sorted(range(len(clips)), key=lambda row: len(clips[row]))
        for first in range(0, len(order), BATCH_CLIPS):
            rows = order[first : first + BATCH_CLIPS]
            padded, lengths = pad([clips[row] for row in rows])
            padded, lengths = padded.to(self._device), lengths.to(self._device)
            frames, inside = self._network.frames(padded, lengths)
            embedding, logits = self._network(statistics(frames, inside), padded, lengths)
            probabilities = (logits / self._temperature).softmax(dim=1).cpu().numpy()
            sequences = [self._sequence(batch[row], frames[place]) for place, row in enumerate(rows)]
            columns = (embedding.float().cpu().numpy(), probabilities, sequences)
            answers.update(zip(rows, zip(*columns, strict=True), strict=True))
        return [answers[row] for row in range(len(clips))]

    def _sequence(self, item: LogMel | Timed[LogMel], frames: Tensor) -> FeatureSequence | None:
        if not isinstance(item, Timed):
            return None
        heard = frames.mean(dim=0)[: (len(item) + 1) // STRIDE].cpu().numpy()
        steps = range(0, len(heard), STEP_FRAMES)
        vectors = np.stack([heard[step : step + STEP_FRAMES].mean(axis=0) for step in steps])
        return FeatureSequence(vectors, item.times_ms[:: STRIDE * STEP_FRAMES])
