"""The half of the voice network that is trained from nothing: a residual network on log-mels, attentive statistics pooling over time."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.residual import ResidualBlock
from models.encoders.whisper_layers import inside_of
from models.encoders.whisper_mel import MELS


class SpectralNetwork(nn.Module):
    """Log-mels of any length to an embedding and class logits.

    Everything behind a clip's end is set to zero before every convolution, and statistics are taken inside the clip
    only, so that a clip's answer does not depend on its batch mates.

    Args:
        widths: Channels of the stem and of each residual stage; each halves time and mels.
        embedding: Length of the embedding.
        dropout: Before the embedding, while training.
        classes: Of the logits.
    """

    def __init__(self, widths: tuple[int, ...], embedding: int, dropout: float, classes: int) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        self.stride = 2 ** len(widths)
        self.stem = nn.Conv2d(3, first, 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.stages = nn.ModuleList(ResidualBlock(a, b, 2) for a, b in itertools.pairwise(widths))
        # One filter over all the bands that are left, so that it matters where in the spectrum something happens.
        self.bands = nn.Conv2d(last, last, (1, -(-MELS // self.stride)), bias=False)
        self.bands_norm = nn.BatchNorm2d(last)
        self.attention = nn.Sequential(nn.Linear(last, last // 2 or 1), nn.Tanh(), nn.Linear(last // 2 or 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(2 * last, embedding)
        self.head = nn.Linear(embedding, classes)

    def forward(self, log_mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels (B, T, M), padded to the longest, with lengths (B,), to (B, D) and logits (B, classes)."""
        # The same padding for a clip alone and in a batch: at least one frame, and whole strides.
        x = functional.pad(log_mel.float(), (0, 0, 0, self.stride - log_mel.shape[1] % self.stride))
        x = _views(x, inside_of(lengths, x.shape[1]).float()).contiguous(memory_format=torch.channels_last)
        lengths = (lengths + 1) // 2
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = x * inside_of(lengths, x.shape[2])[:, None, :, None].to(x)
        for stage in self.stages:
            lengths = (lengths + 1) // 2
            mask = inside_of(lengths, x.shape[2] // 2)[:, None, :, None].to(x)
            x = stage(x, mask) * mask
        x = functional.relu(self.bands_norm(self.bands(x)))[..., 0].transpose(1, 2).float()
        return self._pool(x, inside_of(lengths, x.shape[1]))

    def _pool(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attentive statistics pooling (Okabe et al. 2018, arXiv:1803.10963, section 3), then embedding and head."""
        score = self.attention(x)[..., 0].masked_fill(~mask, -1e4)
        weight = score.softmax(dim=1)[..., None]
        mean = (weight * x).sum(dim=1)
        deviation = ((weight * x**2).sum(dim=1) - mean**2).clamp_min(1e-4).sqrt()
        embedding = functional.relu(self.embed(self.dropout(torch.cat([mean, deviation], dim=1)))).float()
        return embedding, self.head(embedding).float()


def _views(x: Tensor, mask: Tensor) -> Tensor:
    """Three views (B, 3, T, M) of log-mels (B, T, M): as they are, without the mean of each mel, and their slope.

    The first keeps the timbre, the second removes what microphone and line add to every frame, the third is the delta.
    """
    inside = mask[..., None]
    count = inside.sum(dim=1, keepdim=True).clamp_min(1)
    mel_mean = (x * inside).sum(dim=1, keepdim=True) / count
    mean = mel_mean.mean(dim=2, keepdim=True)
    deviation = (((x - mean) ** 2 * inside).sum(dim=(1, 2), keepdim=True) / (count * x.shape[2])).sqrt().clamp_min(0.02)
    plain = (x - mean) / deviation * inside
    slope = functional.pad(plain[:, 2:] - plain[:, :-2], (0, 0, 1, 1))
    return torch.stack([plain, (x - mel_mean) / deviation * inside, slope * inside], dim=1)
