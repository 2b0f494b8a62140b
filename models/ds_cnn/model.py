"""DS-CNN (Zhang et al. 2017, "Hello Edge"): a convolution, then depthwise separable ones, for keywords and series.

The sizes are those of DS-CNN-S: 64 channels, a first kernel of 10 x 4, four separable blocks.
"""

from __future__ import annotations

from torch import Tensor, nn


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

    def __init__(self, classes: int, width: int, blocks: int, kernel: tuple[int, int]) -> None:
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


def build(classes: int = 12, width: int = 64, blocks: int = 4, steps: int = 10, features: int = 4) -> nn.Module:
    """Return the network with random weights, whose first kernel spans `steps` in time and `features` beside it."""
    return DSCNN(classes, width, blocks, (steps, features))
