"""Small networks in which channels can die in every way that folding has to know, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad, scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = (1, 8, 8)


class Residual(nn.Module):
    """Two producers of the same channels, norms, padding, and writing in place."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.first, self.norm = nn.Conv2d(6, 5, 1 + 2 * padding, padding=padding, bias=False), nn.BatchNorm2d(5)
        self.second, self.last = nn.Conv2d(5, 6, 1), nn.Linear(6, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores."""
        hidden = self.relu(self.stem_norm(self.stem(images)))
        branch = self.second(self.relu(self.norm(self.first(hidden))))
        branch += hidden
        return self.last(dropout(self.relu(branch), training=self.training).mean((2, 3)))


class Separable(nn.Module):
    """Depthwise and grouped convolutions, a gate over channels, and parts of channels in another order."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=padding, groups=8)
        self.point, self.norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)
        self.grouped, self.last = nn.Conv2d(8, 6, 1, groups=2), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores."""
        hidden = nn.functional.hardswish(self.norm(self.point(self.depthwise(self.stem(images).relu()))))
        gate = self.up(self.down(hidden.mean((2, 3))).relu()).sigmoid()
        left, right = (hidden * gate[:, :, None, None]).chunk(2, 1)
        return self.last(self.grouped(torch.cat([right, left], 1)).relu().mean((2, 3)))


class Dense(nn.Module):
    """Channels that many layers read, writing into a part of them, and layers that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 1)
        self.twice, self.up = nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores."""
        first = self.first(images).relu()
        second = self.second(first)
        second[:, :2] += images[:, :, 1:-1, 1:-1]
        second[:, 3] = images[:, 0, 1:-1, 1:-1]
        hidden = self.twice(self.twice(torch.cat([first, second], 1)).relu()).relu()
        return self.last(nn.functional.max_pool2d(self.up(hidden).relu(), 3).mean((2, 3)))


class Padded(nn.Module):
    """Zeros and other numbers around maps, pooling that counts them, and a map for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 4, 3), nn.Conv2d(4, 4, 1)
        self.mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate")
        self.last = nn.Linear(4 * 9, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores."""
        hidden = self.second(pad(self.first(images).relu(), (1, 1, 0, 2))).relu()
        hidden = self.third(nn.functional.avg_pool2d(hidden, 2, padding=1)).sigmoid()
        return self.last(self.mirrored(pad(hidden, (0, 0, 1, 0), value=0.5)[:, :, 1:4, :3]).tanh().flatten(1))


class Attending(nn.Module):
    """Channels that are read by other channels, without a weight, and statistics over them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.three = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 18)
        self.out, self.wide, self.last = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores."""
        hidden = self.stem(images[:, 0])
        query, key, value = self.three(self.norm(hidden)).chunk(3, -1)
        hidden = hidden + self.out(scaled_dot_product_attention(query, key, value))
        wide = nn.functional.gelu(self.wide(hidden))
        return self.last(wide.mean(1)) + (wide @ wide.transpose(1, 2)).mean((1, 2))[:, None]


class Recurrent(nn.Module):
    """A layer that remembers, whose gates are rows of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.layer, self.last = nn.Linear(8, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores."""
        return self.last(self.layer(self.before(images[:, 0]).relu())[0][:, -1])


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 7), nn.Sigmoid(), nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Linear(6, 5), nn.ELU(), nn.Linear(5, 3),
    )  # fmt: skip


def _lenet(padding: int) -> nn.Module:
    size = 5 * (1 + padding) ** 2
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=padding), nn.Tanh(),
        nn.AvgPool2d(1 + padding), nn.Flatten(), nn.Linear(size, 6), nn.PReLU(6), nn.Linear(6, 3),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "lenet": lambda: _lenet(0),
    "lenet, padded": lambda: _lenet(1),
    "residual": lambda: Residual(0),
    "residual, padded": lambda: Residual(1),
    "separable": lambda: Separable(0),
    "separable, padded": lambda: Separable(1),
    "dense": Dense,
    "padded": Padded,
    "attending": Attending,
    "recurrent": Recurrent,
}


def random_network(name: str) -> nn.Module:
    """Return a network in evaluation mode whose biases and statistics are drawn."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model
