"""ESPCN (Shi et al. 2016): super resolution whose convolutions all see the small image; a pixel shuffle enlarges it.

ReLU stands where the paper has tanh, as in later networks.
"""

from __future__ import annotations

from torch import Tensor, nn


class ESPCN(nn.Module):
    """Three convolutions and a pixel shuffle."""

    def __init__(self, channels: int, scale: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, 1, 2)
        self.conv2 = nn.Conv2d(width, width // 2, 3, 1, 1)
        self.conv3 = nn.Conv2d(width // 2, channels * scale**2, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to [N, channels, scale H, scale W]."""
        hidden = self.conv2(self.conv1(images).relu()).relu()
        return self.shuffle(self.conv3(hidden))


def build(channels: int = 1, scale: int = 2, width: int = 64) -> nn.Module:
    """Return the network with random weights."""
    return ESPCN(channels, scale, width)
