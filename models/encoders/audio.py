"""The voice encoder: a small residual network on log-mel spectrograms, attentive statistics pooling over time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.mel import MELS, SOUND_MAX_S, LogMel, probe
from models.encoders.residual import ResidualBlock
from models.errors import AudioInputError
from models.labels import RAVDESS_LABELS, emotion_matrix, prediction_from_emotions
from models.types import Features, FeatureSequence, FloatArray, Modality, Timed

BATCH_CLIPS = 32


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """Architecture of the voice network.

    Attributes:
        widths: Channels of the stem and of each residual stage; each halves time and mel.
        embedding: Length of the embedding.
        dropout: Before the embedding, while training.
        labels: Classes of the head, names that `models.labels.TO_EMOTION` knows.
        temperature: What logits are divided by before the softmax (Guo et al. 2017, arXiv:1706.04599, section 4.2).
    """

    widths: tuple[int, ...] = (24, 48, 96, 128)
    embedding: int = 128
    dropout: float = 0.4
    labels: tuple[str, ...] = RAVDESS_LABELS
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= len(self.widths) <= 6 or not all(isinstance(w, int) and 1 <= w <= 2048 for w in self.widths):
            raise ValueError(f"widths must be two to six numbers in [1, 2048], not {self.widths}")
        if not 1 <= self.embedding <= 4096:
            raise ValueError(f"embedding must be in [1, 4096], not {self.embedding}")
        if not 0.05 <= self.temperature <= 20:
            raise ValueError(f"temperature must be in [0.05, 20], not {self.temperature}")


class VoiceNetwork(nn.Module):
    """Log-mel spectrograms of any length to an embedding and class logits.

    Everything behind a clip's end is set to zero before every convolution, and statistics are taken inside the clip
    only, so that a clip's answer does not depend on its batch mates.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        first, last = config.widths[0], config.widths[-1]
        self.stem = nn.Conv2d(3, first, 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        pairs = zip(config.widths, config.widths[1:], strict=False)
        self.stages = nn.ModuleList(ResidualBlock(a, b, 2) for a, b in pairs)
        # One filter over all the bands that are left, so that it matters where in the spectrum something happens.
        self.bands = nn.Conv2d(last, last, (1, MELS // 2 ** len(config.widths)), bias=False)
        self.bands_norm = nn.BatchNorm2d(last)
        self.attention = nn.Sequential(nn.Linear(last, last // 2 or 1), nn.Tanh(), nn.Linear(last // 2 or 1, 1))
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(2 * last, config.embedding)
        self.head = nn.Linear(config.embedding, len(config.labels))

    def forward(self, log_mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels (B, T, M), padded to the longest, with lengths (B,), to (B, D) and logits (B, classes)."""
        return self.pool(*self.frames(log_mel, lengths))

    @property
    def stride(self) -> int:
        """Rows of the log-mel that one frame stands for."""
        return int(2 ** (1 + len(self.stages)))

    def frames(self, log_mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels (B, T, M) with lengths (B,) to frames (B, T', C), and 1 where there is sound (B, T'), 0 behind it."""
        # The same padding for a clip alone and in a batch: at least one frame, and whole strides.
        x = functional.pad(log_mel.float(), (0, 0, 0, self.stride - log_mel.shape[1] % self.stride))
        x = _channels(x, _mask(lengths, x.shape[1])).contiguous(memory_format=torch.channels_last)
        lengths = (lengths + 1) // 2
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = x * _mask(lengths, x.shape[2])[:, None, :, None]
        for stage in self.stages:
            lengths = (lengths + 1) // 2
            mask = _mask(lengths, x.shape[2] // 2)[:, None, :, None]
            x = stage(x, mask) * mask
        x = functional.relu(self.bands_norm(self.bands(x)))[..., 0].transpose(1, 2)
        return x.float(), _mask(lengths, x.shape[1])

    def pool(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attentive statistics pooling (Okabe et al. 2018, arXiv:1803.10963, section 3), then embedding and head."""
        score = self.attention(x)[..., 0].masked_fill(mask == 0, -1e4)
        weight = score.softmax(dim=1)[..., None]
        mean = (weight * x).sum(dim=1)
        deviation = ((weight * x**2).sum(dim=1) - mean**2).clamp_min(1e-4).sqrt()
        embedding = functional.relu(self.embed(self.dropout(torch.cat([mean, deviation], dim=1)))).float()
        return embedding, self.head(embedding)


def _mask(lengths: Tensor, size: int) -> Tensor:
    return (torch.arange(size, device=lengths.device)[None] < lengths[:, None]).float()


def _channels(x: Tensor, mask: Tensor) -> Tensor:
    """Three views (B, 3, T, M) of log-mels (B, T, M): as they are, without the mean of each mel, and their slope.

    The first keeps the timbre, the second removes what microphone and line add to every frame, the third is the delta.
    """
    inside = mask[..., None]
    count = inside.sum(dim=1, keepdim=True).clamp_min(1)
    mel_mean = (x * inside).sum(dim=1, keepdim=True) / count
    mean = mel_mean.mean(dim=2, keepdim=True)
    deviation = (((x - mean) ** 2 * inside).sum(dim=(1, 2), keepdim=True) / (count * x.shape[2])).sqrt().clamp_min(0.1)
    plain = (x - mean) / deviation * inside
    slope = functional.pad(plain[:, 2:] - plain[:, :-2], (0, 0, 1, 1))
    return torch.stack([plain, (x - mel_mean) / deviation * inside, slope * inside], dim=1)


def pad(batch: Sequence[LogMel]) -> tuple[Tensor, Tensor]:
    """Log-mels of several lengths as one zero-padded float32 tensor (B, T, M) and the lengths (B,)."""
    lengths = torch.tensor([len(item) for item in batch])
    padded = torch.zeros(len(batch), int(lengths.max()), batch[0].shape[1])
    for row, item in zip(padded, batch, strict=True):
        row[: len(item)] = torch.from_numpy(item.astype(np.float32))
    return padded, lengths


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
        """Judge utterances by what `mel.prepare` made of them, each (T, 64); the order is kept.

        The sequence of a `Timed` one has a vector per 16 rows (160 ms), for the widths of `AudioConfig`.

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
            frames, inside = self._network.frames(padded.to(self._device), lengths.to(self._device))
            embedding, logits = self._network.pool(frames, inside)
            probabilities = (logits.float() / self._temperature).softmax(dim=1).cpu().numpy()
            sequences = [self._sequence(batch[row], frames[place]) for place, row in enumerate(rows)]
            columns = (embedding.float().cpu().numpy(), probabilities, sequences)
            answers.update(zip(rows, zip(*columns, strict=True), strict=True))
        return [answers[row] for row in range(len(clips))]

    def _sequence(self, item: LogMel | Timed[LogMel], frames: Tensor) -> FeatureSequence | None:
        if not isinstance(item, Timed):
            return None
        times_ms = item.times_ms[:: self._network.stride]
        return FeatureSequence(frames[: len(times_ms)].cpu().numpy(), times_ms)
