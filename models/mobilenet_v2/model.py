"""MobileNetV2 (Sandler et al. 2018, table 2): inverted residuals with linear bottlenecks and depthwise convolutions.

Parameter names follow the common layout (`features.0.0`, `features.1.conv.0.0`, ..., `classifier.1`), so that public
weights load.
"""

from __future__ import annotations

from torch import Tensor, nn

STEM, HEAD = 32, 1280
#: Expansion, width, blocks and stride of each stage.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
#: The stage that keeps the image size too when images are small.
SECOND = 1


def convolution(width_in: int, width: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution with batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by a depthwise 3x3, and narrow again without activation."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        """Take input and output channels, the stride, and by what factor the input is widened (1: not at all)."""
        super().__init__()
        inner = width_in * expansion
        widen = [convolution(width_in, inner, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *widen,
            convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.residual = stride == 1 and width_in == width

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H/stride, W/stride]."""
        return features + self.conv(features) if self.residual else self.conv(features)


class MobileNetV2(nn.Module):
    """A stem, seventeen inverted residuals, a 1x1 convolution, global average pooling and a linear classifier."""

    def __init__(self, classes: int, channels: int, dropout: float, *, multiplier: float, small_images: bool) -> None:
        """Take the number of classes and of image channels, the dropout rate, and widths and strides: see `build`."""
        super().__init__()
        width_in = scaled(STEM, multiplier)
        layers: list[nn.Module] = [convolution(channels, width_in, 3, 1 if small_images else 2)]
        for stage, (expansion, full_width, blocks, stage_stride) in enumerate(STAGES):
            width = scaled(full_width, multiplier)
            stride = 1 if small_images and stage == SECOND else stage_stride
            for block in range(blocks):
                layers.append(InvertedResidual(width_in, width, 1 if block else stride, expansion))
                width_in = width
        head = scaled(HEAD, max(multiplier, 1.0))
        self.features = nn.Sequential(*layers, convolution(width_in, head, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to logits [N, classes]."""
        return self.classifier(self.features(images).mean((2, 3)))


def scaled(width: int, multiplier: float) -> int:
    """Return a width times the multiplier as a multiple of 8, at least 8 and no more than a tenth too narrow."""
    wanted = width * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def build(
    classes: int = 1000, channels: int = 3, *, width: float = 1.0, dropout: float = 0.2, small_images: bool = False
) -> nn.Module:
    """Return the network with random weights.

    `width` multiplies the channels of every layer; the last convolution never has fewer than in the plain network.

    With `small_images` the stem and the second stage have stride 1, for images of about 32 px; no tensor changes its
    shape.
    """
    return MobileNetV2(classes, channels, dropout, multiplier=width, small_images=small_images)
