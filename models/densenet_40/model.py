"""DenseNet-40 for CIFAR (Huang et al. 2017, section 4.2): growth rate 12, no bottlenecks, no compression.

Three dense blocks of twelve layers; each layer sees the outputs of all layers before it. Parameter names follow the
pruning literature (`conv1`, `dense1.0.bn1`, `dense1.0.conv1`, `trans1.conv1`, ..., `fc`), so that its public weights
load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

BLOCKS = 3


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution whose output is appended to its input."""

    def __init__(self, width_in: int, growth: int) -> None:
        """Take the input channels and how many are added."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, growth, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width_in + growth, H, W]."""
        return torch.cat([features, self.conv1(self.bn1(features).relu())], 1)


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution and average pooling that halves the image."""

    def __init__(self, width: int) -> None:
        """Take the channels, which stay as many."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width, H, W] to [N, width, H/2, W/2]."""
        return avg_pool2d(self.conv1(self.bn1(features).relu()), 2)


class DenseNet(nn.Module):
    """A 3x3 stem, dense blocks with transitions between, global average pooling and a linear classifier."""

    def __init__(self, classes: int, channels: int, layers: int, growth: int) -> None:
        """Take the number of classes, of image channels, of layers in each block, and the growth rate."""
        super().__init__()
        width = 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        for block in range(1, BLOCKS + 1):
            dense = nn.Sequential(*(DenseLayer(width + growth * layer, growth) for layer in range(layers)))
            self.add_module(f"dense{block}", dense)
            width += growth * layers
            if block < BLOCKS:
                self.add_module(f"trans{block}", Transition(width))
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to logits [N, classes]."""
        hidden = self.conv1(images)
        for block in range(1, BLOCKS):
            hidden = self.get_submodule(f"dense{block}")(hidden)
            hidden = self.get_submodule(f"trans{block}")(hidden)
        hidden = self.get_submodule(f"dense{BLOCKS}")(hidden)
        return self.fc(self.bn(hidden).relu().mean((2, 3)))


def build(classes: int = 10, channels: int = 3, depth: int = 40, growth: int = 12) -> nn.Module:
    """Return the network of this depth (3 n + 4) and growth rate with random weights."""
    layers, rest = divmod(depth - BLOCKS - 1, BLOCKS)
    if rest or layers < 1:
        message = f"depth {depth} is not 3 n + 4 (22, 40, 100)"
        raise ValueError(message)
    return DenseNet(classes, channels, layers, growth)
