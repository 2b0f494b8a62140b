"""ResNet-18 (He et al. 2016, table 1): four stages of two basic blocks, 64 to 512 channels.

Parameter names follow the common layout (`conv1`, `bn1`, `layer1.0.conv1`, ..., `fc`), so that public weights load.
"""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a residual connection."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        """Take the input and output channels and the stride of the first convolution."""
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H/stride, W/stride]."""
        hidden = self.relu(self.bn1(self.conv1(features)))
        hidden = self.bn2(self.conv2(hidden))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu(hidden + shortcut)


class ResNet18(nn.Module):
    """A 7x7 stem with max pooling, four stages, global average pooling and a linear classifier."""

    def __init__(self, classes: int, channels: int) -> None:
        """Take the number of classes and of image channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to logits [N, classes]."""
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(self.avgpool(hidden).flatten(1))


def build(classes: int = 1000, channels: int = 3) -> nn.Module:
    """Return the network with random weights."""
    return ResNet18(classes, channels)
