"""The first layers of Whisper's encoder, by which the voice is heard."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.whisper_mel import MELS

STRIDE = 2
"""Rows of the log-mel that one of Whisper's frames stands for."""


class SelfAttention(nn.Module):
    """Multi-head self-attention; keys have no bias, as in Whisper."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """Map (B, T, C) to the same; frames where `inside` (B, T) is false are not attended to."""
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=inside[:, None, None])
        attended: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return attended


class EncoderBlock(nn.Module):
    """A block of Whisper's encoder, named as there: pre-activation residual attention and a network of two layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn_ln = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.mlp_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """Map (B, T, C) to the same."""
        x = x + self.attn(self.attn_ln(x), inside)
        added: Tensor = self.mlp(self.mlp_ln(x))
        return x + added


class WhisperLayers(nn.Module):
    """The first blocks of Whisper's encoder (Radford et al. 2022, arXiv:2212.04356, section 2.2), over a clip's own length.

    Everything behind a clip's end is set to zero before every convolution and not attended to, so that a clip's answer
    does not depend on its batch mates.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, STRIDE, padding=1)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(layers))

    def forward(self, log_mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels (B, T, M) with lengths (B,) to each block's output (B, L, T', C), and which frames are inside (B, T')."""
        heard = inside_of(lengths, log_mel.shape[1])[:, None]
        x = functional.gelu(self.conv1(log_mel.float().transpose(1, 2) * heard)) * heard
        x = functional.gelu(self.conv2(x)).transpose(1, 2)
        x = x + positions(x.shape[1], x.shape[2]).to(x)
        inside = inside_of((lengths + 1) // STRIDE, x.shape[1])
        found = []
        for block in self.blocks:
            x = block(x, inside)
            found.append(x)
        return torch.stack(found, dim=1), inside


def positions(frames: int, width: int) -> Tensor:
    """Whisper's sinusoidal positions (frames, width), which are never learned: sines, then cosines."""
    half = width // 2
    rate = torch.exp(-math.log(10_000) / (half - 1 or 1) * torch.arange(half))
    angle = torch.arange(frames)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def inside_of(lengths: Tensor, size: int) -> Tensor:
    """Which of `size` places lie inside clips of these lengths (B,): bool (B, size)."""
    return torch.arange(size, device=lengths.device)[None] < lengths[:, None]
