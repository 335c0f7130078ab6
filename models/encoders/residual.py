"""The building block of the face network and of the voice's residual half."""

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut (He et al. 2016, arXiv:1512.03385, fig. 2)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        # The block starts as its shortcut alone (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        nn.init.zeros_(self.norm2.weight)
        self.shortcut = nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, width_in, H, W) to (B, width_out, H / stride, W / stride); `mask` zeroes what lies behind an end."""
        y = functional.relu(self.norm1(self.conv1(x)))
        if mask is not None:
            y = y * mask
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))
