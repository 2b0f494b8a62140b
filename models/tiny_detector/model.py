"""A small detector without anchors: split and concatenated blocks, pooled context, a feature pyramid, one map a stride.

The parts are those of today's one-stage detectors (cross-stage partial blocks, Wang et al. 2020; a feature pyramid, Lin
et al. 2017; heads without anchors, Tian et al. 2019), so that compression meets the same graph. For the task
`detection`: each map has 4 distances and a logit for each class, and is decoded outside the network.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

#: Strides of 8 and 16, or of 8, 16 and 32.
LEVELS = (2, 3)


class ConvNorm(nn.Module):
    """A convolution, batch norm and ReLU; the size is halved by a stride of 2."""

    def __init__(self, width_in: int, width: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H / stride, W / stride]."""
        return self.bn(self.conv(features)).relu()


class SplitBlock(nn.Module):
    """Half of the channels pass by, the other half through two convolutions with a residual; all are concatenated."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.entry = ConvNorm(width_in, 2 * half, 1)
        self.conv1, self.conv2 = ConvNorm(half, half), ConvNorm(half, half)
        self.out = ConvNorm(3 * half, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H, W]."""
        kept, changed = self.entry(features).chunk(2, dim=1)
        return self.out(torch.cat([kept, changed, changed + self.conv2(self.conv1(changed))], dim=1))


class PooledContext(nn.Module):
    """Maxima over windows of 5, 9 and 13, by three poolings in a row, beside the features (He et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entry = ConvNorm(width, width // 2, 1)
        self.out = ConvNorm(4 * (width // 2), width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width, H, W] to the same shape."""
        parts = [self.entry(features)]
        for _ in range(3):
            parts.append(max_pool2d(parts[-1], 5, 1, 2))
        return self.out(torch.cat(parts, dim=1))


class Head(nn.Module):
    """A convolution and a 1x1 convolution to distances and logits; classes begin rare, at a probability of 1 %."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNorm(width, width)
        self.out = nn.Conv2d(width, 4 + classes, 1)
        nn.init.constant_(self.out.bias, 1.0)
        nn.init.constant_(self.out.bias[4:], -math.log(99))

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width, H, W] to [N, 4 + classes, H, W]."""
        return self.out(self.conv(features))


class TinyDetector(nn.Module):
    """A backbone to strides of 8, 16 and perhaps 32, the way back up with concatenation, and a head for each stride."""

    def __init__(self, classes: int, channels: int, width: int, levels: int) -> None:
        super().__init__()
        widths = [width, 2 * width, *(min(3 + level, 4) * width for level in range(levels))]
        self.stem, self.down = ConvNorm(channels, widths[0], 3, 2), ConvNorm(widths[0], widths[1], 3, 2)
        self.steps = nn.ModuleList(ConvNorm(*pair, 3, 2) for pair in pairwise(widths[1:]))
        self.blocks = nn.ModuleList(SplitBlock(each, each) for each in widths[2:])
        self.context = PooledContext(widths[-1])
        joined = pairwise(widths[2:])
        self.up = nn.ModuleList(SplitBlock(fine + coarse, fine) for fine, coarse in joined)
        self.heads = nn.ModuleList(Head(each, classes) for each in widths[2:])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images [N, channels, H, W] to a map [N, 4 + classes, H / s, W / s] for each stride s."""
        features, levels = self.down(self.stem(images)), []
        for step, block in zip(self.steps, self.blocks, strict=True):
            features = block(step(features))
            levels.append(features)
        levels[-1] = self.context(levels[-1])
        for place in range(len(levels) - 2, -1, -1):
            larger = interpolate(levels[place + 1], scale_factor=2.0, mode="nearest")
            levels[place] = self.up[place](torch.cat([levels[place], larger], dim=1))
        return tuple(head(level) for head, level in zip(self.heads, levels, strict=True))


def build(classes: int = 10, channels: int = 1, width: int = 16, levels: int = 3) -> nn.Module:
    """Return the detector with random weights; the sides of images are multiples of the largest stride."""
    if levels not in LEVELS:
        message = f"levels {levels} are not there: 2 (strides 8, 16) or 3 (strides 8, 16, 32)"
        raise ValueError(message)
    return TinyDetector(classes, channels, width, levels)
