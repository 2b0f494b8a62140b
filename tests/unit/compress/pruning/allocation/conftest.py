"""Scores and costs that are small enough to work out by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

Scores = dict[str, "Tensor"]


class Chain:
    """Layers one after another: each costs its input width times its output width, from 3 channels to 10 classes."""

    name = "multiply-accumulates"

    def __init__(self, whole: Mapping[str, int]) -> None:
        self.whole = dict(whole)

    def cost(self, widths: Mapping[str, int]) -> float:
        """Return the sum of products of neighbouring widths."""
        sizes = [3, *(widths.get(name, whole) for name, whole in self.whole.items()), 10]
        return sum(before * after for before, after in pairwise(sizes))


def random_scores(*widths: int, seed: int = 0) -> Scores:
    """Return random scores of groups g0, g1, ... of these widths, whose scales differ a hundredfold."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"g{index}": torch.rand(width, generator=generator, dtype=torch.float64) * 100.0**index
        for index, width in enumerate(widths)
    }


@pytest.fixture(scope="session")
def scores() -> Callable[..., Scores]:
    """Return the maker of random scores by widths."""
    return random_scores


@pytest.fixture(scope="session")
def chain() -> Callable[[Scores], Chain]:
    """Return the maker of a cost model of layers whose output channels these scores are of."""
    return lambda scores: Chain({name: len(score) for name, score in scores.items()})
