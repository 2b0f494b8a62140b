"""ResNet-20, -56 and their kind in the CIFAR style (He et al. 2016, section 4.2): three stages of 16, 32, 64 channels.

Depth is 6 n + 2 with n basic blocks in each stage. A residual connection that changes shape is a 1x1 convolution with
batch norm (option B).
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
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H/stride, W/stride]."""
        hidden = self.bn1(self.conv1(features)).relu()
        hidden = self.bn2(self.conv2(hidden))
        return (hidden + self.shortcut(features)).relu()


class ResNet(nn.Module):
    """A stem of 16 channels, three stages, global average pooling and a linear classifier."""

    def __init__(self, classes: int, channels: int, blocks: int) -> None:
        """Take the number of classes, of image channels and of blocks in each stage."""
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = self._stage(16, 16, blocks, 1)
        self.stage2 = self._stage(16, 32, blocks, 2)
        self.stage3 = self._stage(32, 64, blocks, 2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(width_in, width, stride)
        return nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to logits [N, classes]."""
        hidden = self.bn(self.conv(images)).relu()
        hidden = self.stage3(self.stage2(self.stage1(hidden)))
        return self.fc(hidden.mean((2, 3)))


def build(classes: int = 10, channels: int = 3, depth: int = 20) -> nn.Module:
    """Return the network of this depth (20, 32, 44, 56, ...) with random weights."""
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        message = f"depth {depth} is not 6 n + 2 (20, 32, 44, 56, 110)"
        raise ValueError(message)
    return ResNet(classes, channels, blocks)
