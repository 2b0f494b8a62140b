"""U-Net (Ronneberger et al. 2015) in small: batch norm, padded convolutions, nearest upsampling and concatenation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d


class DoubleConv(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H, W]."""
        hidden = self.bn1(self.conv1(features)).relu()
        return self.bn2(self.conv2(hidden)).relu()


class UNet(nn.Module):
    """Down by halves, back up with what was seen on the way down, and a 1x1 convolution to the outputs."""

    def __init__(self, outputs: int, channels: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(DoubleConv(*pair) for pair in zip([channels, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(DoubleConv(3 * each, each) for each in reversed(widths[:-1]))
        self.out = nn.Conv2d(width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to [N, outputs, H, W]."""
        features, seen = images, []
        for place, block in enumerate(self.down):
            features = block(max_pool2d(features, 2) if place else features)
            seen.append(features)
        for block, beside in zip(self.up, reversed(seen[:-1]), strict=True):
            features = block(torch.cat([interpolate(features, scale_factor=2.0, mode="nearest"), beside], dim=1))
        return self.out(features)


def build(outputs: int = 11, channels: int = 1, width: int = 16, depth: int = 3) -> nn.Module:
    """Return the network with random weights; the sides of images are multiples of 2 ** depth."""
    return UNet(outputs, channels, width, depth)
