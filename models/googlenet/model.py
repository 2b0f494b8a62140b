"""GoogLeNet in the CIFAR style (Szegedy et al. 2015): one 3x3 convolution and nine inception modules.

The form of the pruning literature (HRank and its successors): batch norm after every convolution, two 3x3 convolutions
in place of each 5x5, no auxiliary classifiers. Parameter names follow that literature (`pre_layers.0`,
`inception_a3.branch5x5.3`, ..., `linear`), so that its public weights load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Name -> widths of the branches: 1x1; 3x3 reduce and 3x3; 5x5 reduce and 5x5; behind the pooling.
MODULES = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}
#: Modules with max pooling of stride 2 before them.
HALVED = ("a4", "a5")
STEM = 192


def convolution(width_in: int, width: int, size: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return a convolution that keeps the image size, its batch norm and ReLU."""
    return nn.Conv2d(width_in, width, size, padding=size // 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)


class Inception(nn.Module):
    """Four branches side by side, joined along the channels."""

    def __init__(self, width_in: int, widths: tuple[int, int, int, int, int, int]) -> None:
        """Take the input channels and a row of MODULES."""
        super().__init__()
        single, reduce3, width3, reduce5, width5, pooled = widths
        self.branch1x1 = nn.Sequential(*convolution(width_in, single, 1))
        self.branch3x3 = nn.Sequential(*convolution(width_in, reduce3, 1), *convolution(reduce3, width3, 3))
        self.branch5x5 = nn.Sequential(
            *convolution(width_in, reduce5, 1),
            *convolution(reduce5, width5, 3),
            *convolution(width5, width5, 3),
        )
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), *convolution(width_in, pooled, 1))
        self.width = single + width3 + width5 + pooled

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H, W]."""
        branches = (self.branch1x1, self.branch3x3, self.branch5x5, self.branch_pool)
        return torch.cat([branch(features) for branch in branches], 1)


class GoogLeNet(nn.Module):
    """A 3x3 stem, nine inception modules, global average pooling and a linear classifier."""

    def __init__(self, classes: int, channels: int) -> None:
        """Take the number of classes and of image channels."""
        super().__init__()
        self.pre_layers = nn.Sequential(*convolution(channels, STEM, 3))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        width = STEM
        for name, widths in MODULES.items():
            inception = Inception(width, widths)
            self.add_module(f"inception_{name}", inception)
            width = inception.width
        self.linear = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to logits [N, classes]."""
        hidden = self.pre_layers(images)
        for name in MODULES:
            if name in HALVED:
                hidden = self.maxpool(hidden)
            hidden = self.get_submodule(f"inception_{name}")(hidden)
        return self.linear(hidden.mean((2, 3)))


def build(classes: int = 10, channels: int = 3) -> nn.Module:
    """Return the network with random weights."""
    return GoogLeNet(classes, channels)
