"""DS-CNN (Zhang et al. 2017, "Hello Edge"): a convolution, then depthwise separable ones, for keywords and series.

The sizes are those of DS-CNN-S: 64 channels, a first kernel of 10 x 4, four separable blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class Separable(nn.Module):
    """A 3x3 convolution of each channel and a 1x1 convolution across them, each with batch norm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width, T, F] to the same shape."""
        hidden = self.bn1(self.depthwise(features)).relu()
        return self.bn2(self.pointwise(hidden)).relu()


class DSCNN(nn.Module):
    """A strided convolution, separable blocks, global average pooling and a linear classifier."""

    def __init__(self, classes: int, width: int, blocks: int, kernel: Sequence[int]) -> None:
        super().__init__()
        high, wide = kernel
        self.conv = nn.Conv2d(1, width, (high, wide), 2, (high // 2, wide // 2), bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Separable(width) for _ in range(blocks)))
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, 1, T, F], such as cepstra F at times T, to logits [N, classes]."""
        hidden = self.blocks(self.bn(self.conv(features)).relu())
        return self.fc(hidden.mean((2, 3)))


def build(classes: int = 12, width: int = 64, blocks: int = 4, kernel: Sequence[int] = (10, 4)) -> nn.Module:
    """Return the network with random weights."""
    return DSCNN(classes, width, blocks, kernel)
