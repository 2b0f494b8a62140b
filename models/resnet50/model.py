"""ResNet-50 (He et al. 2016, table 1): four stages of bottleneck blocks, 256 to 2,048 channels.

The stride lies on the 3x3 convolution, as public implementations have it. Parameter names follow the common layout
(`conv1`, `bn1`, `layer1.0.conv1`, ..., `fc`), so that public weights load.
"""

from __future__ import annotations

from torch import Tensor, nn

EXPANSION = 4
STEM = 64
#: Inner width, blocks and stride of the four stages.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 and a residual connection."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        """Take the input channels, the inner channels (a quarter of the output's) and the stride."""
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * EXPANSION)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or width_in != width * EXPANSION:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width * EXPANSION, 1, stride, bias=False),
                nn.BatchNorm2d(width * EXPANSION),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, 4 width, H/stride, W/stride]."""
        hidden = self.relu(self.bn1(self.conv1(features)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu(hidden + shortcut)


class ResNet50(nn.Module):
    """A stem, four stages, global average pooling and a linear classifier."""

    def __init__(self, classes: int, channels: int, *, small_images: bool) -> None:
        """Take the number of classes and of image channels, and which stem: see `build`."""
        super().__init__()
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(channels, STEM, size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        width_in = STEM
        for stage, (width, blocks, stage_stride) in enumerate(STAGES, start=1):
            first = Bottleneck(width_in, width, stage_stride)
            width_in = width * EXPANSION
            rest = (Bottleneck(width_in, width, 1) for _ in range(blocks - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to logits [N, classes]."""
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(self.avgpool(hidden).flatten(1))


def build(classes: int = 1000, channels: int = 3, *, small_images: bool = False) -> nn.Module:
    """Return the network with random weights.

    With `small_images` the stem is a 3x3 convolution of stride 1 without max pooling, for images of about 32 px; all
    other tensors keep their shapes.
    """
    return ResNet50(classes, channels, small_images=small_images)
