"""VGG-16 with batch norm in the CIFAR style (Simonyan and Zisserman 2015, table 1, column D): 13 convolutions of 3x3.

The classifier is that of the pruning literature (HRank and its successors): one hidden layer of 512 in place of two of
4,096. Parameter names follow that literature (`features.conv0`, `features.norm0`, ..., `classifier.linear2`), so that
its public weights load.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Widths of the convolutions; None is max pooling. The position in this list is the number in a layer's name.
LAYOUT = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)
HIDDEN = 512


def features(channels: int) -> nn.Sequential:
    """Return the convolutions, norms, activations and poolings: [N, channels, H, W] to [N, 512, H/16, W/16]."""
    layers = nn.Sequential()
    for position, width in enumerate(LAYOUT):
        if width is None:
            layers.add_module(f"pool{position}", nn.MaxPool2d(2, 2))
            continue
        layers.add_module(f"conv{position}", nn.Conv2d(channels, width, 3, padding=1))
        layers.add_module(f"norm{position}", nn.BatchNorm2d(width))
        layers.add_module(f"relu{position}", nn.ReLU(inplace=True))
        channels = width
    return layers


class VGG16(nn.Module):
    """Convolutions, global average pooling and a classifier with one hidden layer."""

    def __init__(self, classes: int, channels: int) -> None:
        """Take the number of classes and of image channels."""
        super().__init__()
        self.features = features(channels)
        self.classifier = nn.Sequential()
        self.classifier.add_module("linear1", nn.Linear(HIDDEN, HIDDEN))
        self.classifier.add_module("norm1", nn.BatchNorm1d(HIDDEN))
        self.classifier.add_module("relu1", nn.ReLU(inplace=True))
        self.classifier.add_module("linear2", nn.Linear(HIDDEN, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W], 16 px or more, to logits [N, classes]."""
        return self.classifier(self.features(images).mean((2, 3)))


def build(classes: int = 10, channels: int = 3) -> nn.Module:
    """Return the network with random weights."""
    return VGG16(classes, channels)
