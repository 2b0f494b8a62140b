"""One small network for each way of wiring that quantization meets; loaded by path, as a user's model is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Unit(nn.Sequential):
    """A convolution, batch norm and ReLU."""

    def __init__(self, inner: int, width: int, kernel: int = 3, groups: int = 1) -> None:
        convolution = nn.Conv2d(inner, width, kernel, padding=kernel // 2, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(width), nn.ReLU())


class Residual(nn.Module):
    """A block of ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Unit(width, 2 * width)
        self.second = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to its input."""
        return (x + self.norm(self.second(self.first(x)))).relu()


class Depthwise(nn.Module):
    """An inverted residual of MobileNet, with ReLU6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand, self.expanded = nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.deep = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.deepened = nn.BatchNorm2d(2 * width)
        self.project, self.projected = nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to its input."""
        hidden = functional.relu6(self.expanded(self.expand(x)))
        hidden = functional.relu6(self.deepened(self.deep(hidden)))
        return x + self.projected(self.project(hidden))


class Grouped(nn.Module):
    """A block of ResNeXt: a convolution in groups between two pointwise ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.within = Unit(width, width, 1), Unit(width, width, 3, groups=4)
        self.behind, self.norm = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to its input."""
        return (x + self.norm(self.behind(self.within(self.before(x))))).relu()


class Joined(nn.Module):
    """Branches next to each other, as in Inception and DenseNet, one of them pooled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.three = Unit(width, width // 2, 1), Unit(width, width // 2, 3)
        self.pooled = Unit(width, width // 2, 1)
        self.join = Unit(width + width // 2 + width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Join the branches and the input."""
        branches = (x, self.one(x), self.three(x), self.pooled(functional.max_pool2d(x, 3, 1, 1)))
        return self.join(torch.cat(branches, 1))


class Excited(nn.Module):
    """Squeeze-and-excitation, with hard-swish as in MobileNetV3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        self.squeeze, self.excite = nn.Conv2d(2 * width, 8, 1), nn.Conv2d(8, 2 * width, 1)
        self.out = Unit(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh channels by what all pixels hold."""
        hidden = functional.hardswish(self.norm(self.conv(x)))
        gate = self.excite(self.squeeze(hidden.mean((2, 3), keepdim=True)).relu())
        return self.out(hidden * functional.hardsigmoid(gate))


class Attention(nn.Module):
    """A block of a vision transformer over the pixels: attention with two heads, then two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Let pixels look at each other."""
        small = functional.avg_pool2d(x, 2)
        tokens = small.flatten(2).transpose(1, 2)
        hidden = self.before(tokens)
        parts = [layer(hidden).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        tokens = tokens + self.project(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        tokens = tokens + self.down(functional.gelu(self.up(self.behind(tokens))))
        return tokens.transpose(1, 2).unflatten(2, small.shape[2:])


BLOCKS: dict[str, type[nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "concat": Joined,
    "squeeze-excite": Excited,
    "attention": Attention,
}


class Network(nn.Module):
    """A stem, one block of the family, a convolution that shrinks, and a linear layer."""

    def __init__(self, family: str, width: int, classes: int) -> None:
        super().__init__()
        self.stem, self.block = Unit(3, width), BLOCKS[family](width)
        self.shrink, self.norm = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        hidden = self.norm(self.shrink(self.block(self.stem(images)))).relu()
        return self.fc(hidden.mean((2, 3)))


def build(family: str = "residual", width: int = 16, classes: int = 4) -> nn.Module:
    """Return the network."""
    return Network(family, width, classes)
