"""Small networks of several inputs, of integers, of sequences, and of several outputs; what they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.artifact import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.feeds import Feeds

WORDS, LENGTH = 11, 6


class ImageAndNumbers(nn.Module):
    """An image and five numbers that tell of it, to two answers by name."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.numbers = nn.Linear(5, 8)
        self.scores = nn.Linear(16, 4)
        self.place = nn.Linear(16, 2)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        """Map [N, 3, 8, 8] and [N, 5] to scores [N, 4] and a place [N, 2]."""
        seen = self.conv(image).relu().mean((2, 3))
        both = torch.cat([seen, self.numbers(numbers).relu()], 1)
        return {"scores": self.scores(both), "place": self.place(both)}


class Tokens(nn.Module):
    """Words and which of them count, to a label for each word."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.labels = nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map int64 [N, T] and float [N, T] to [N, T, 3]."""
        labels: Tensor = self.labels(self.norm(self.hidden(self.words(ids) * mask[..., None]).relu()))
        return labels


class Series(nn.Module):
    """A sequence of two channels to classes."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.first = nn.Conv1d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Conv1d(8, 8, 3, stride=2, padding=1)
        self.classes = nn.Linear(8, 3)

    def forward(self, series: Tensor) -> Tensor:
        """Map [N, 2, 16] to [N, 3]."""
        hidden = self.second(self.norm(self.first(series)).relu()).relu()
        classes: Tensor = self.classes(hidden.mean(2))
        return classes


class MapAndCount(nn.Module):
    """An image to a map and one number, in a tuple."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.map = nn.Conv2d(8, 2, 1)
        self.count = nn.Linear(8, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, 3, 8, 8] to [N, 2, 8, 8] and [N]."""
        hidden = self.stem(image).relu()
        return self.map(hidden), self.count(hidden.mean((2, 3))).flatten()


@dataclass(frozen=True)
class Several:
    """A kind of network: how it is built, its inputs without the batch, and the names of its outputs."""

    build: Callable[[], nn.Module]
    inputs: dict[str, tuple[tuple[int, ...], str]]
    outputs: tuple[str, ...]

    def model(self) -> nn.Module:
        """Return the network in evaluation mode, always the same."""
        torch.manual_seed(0)
        return self.build().eval()

    def specs(self, batch: int) -> tuple[TensorSpec, ...]:
        """Return its inputs at a batch."""
        items = self.inputs.items()
        return tuple(TensorSpec(name=name, shape=(batch, *shape), dtype=dtype) for name, (shape, dtype) in items)

    def feeds(self, count: int = 12) -> Feeds:
        """Return samples: words that there are, marks that are 0 or 1, and normal numbers."""
        drawn = np.random.default_rng(0)
        return {
            name: drawn.integers(0, WORDS, (count, *shape))
            if dtype == "int64"
            else drawn.integers(0, 2, (count, *shape)).astype(np.float32)
            if name == "mask"
            else drawn.standard_normal((count, *shape), dtype=np.float32)
            for name, (shape, dtype) in self.inputs.items()
        }


IMAGE = ((3, 8, 8), "float32")
NETWORKS = {
    "image and numbers": Several(ImageAndNumbers, {"image": IMAGE, "numbers": ((5,), "float32")}, ("scores", "place")),
    "tokens": Several(Tokens, {"ids": ((LENGTH,), "int64"), "mask": ((LENGTH,), "float32")}, ("output",)),
    "series": Several(Series, {"series": ((2, 16), "float32")}, ("output",)),
    "map and count": Several(MapAndCount, {"image": IMAGE}, ("output", "output_2")),
}
