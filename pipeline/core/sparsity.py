"""Zeros among the weights of an exported file, as a report tells them and as they are compared from stage to stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.artifact import FrozenModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    #: Where the weights of each layer of a file are zero, by the layer's name, in the file's order.
    Zeros = Mapping[str, NDArray[np.bool_]]

#: The key of a row's `changed` under which a `Sparsity` stands.
SPARSITY = "sparsity"


class LayerZeros(FrozenModel):
    """How many of a layer's weights are zero, and how many it has."""

    zeros: int
    weights: int


class Sparsity(FrozenModel):
    """Zeros among the weights of the layers that multiply by weights, counted in a file; layers in its own order.

    An 8-bit weight is zero where it equals its zero point. Biases and norms are not counted.
    """

    zeros: int
    weights: int
    layers: dict[str, LayerZeros]

    @classmethod
    def of(cls, zeros: Zeros) -> Sparsity:
        """Count."""
        layers = {name: LayerZeros(zeros=int(each.sum()), weights=each.size) for name, each in zeros.items()}
        return cls(
            zeros=sum(layer.zeros for layer in layers.values()),
            weights=sum(layer.weights for layer in layers.values()),
            layers=layers,
        )

    @property
    def share(self) -> float:
        """Share of the weights that are zero, from 0 to 1."""
        return self.zeros / self.weights if self.weights else 0.0


def zeros_among(weights: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.bool_]]:
    """Return where the weights of each layer are zero."""
    return {name: np.asarray(each == 0) for name, each in weights.items()}


def lost_zeros(before: Zeros, after: Zeros) -> dict[str, int]:
    """Return the layers of the later file that have lost zeros of the earlier one, and how many at least.

    Layers are the same by name and size, else by size and order: a converter may rename them. Weights are compared one
    by one, and by their number alone where a converter has laid them out differently. Layers of another size, such as
    pruned ones, are not compared.
    """
    found = {name: _lost(given, made) for name, given, made in _pairs(before, after)}
    return {name: lost for name, lost in found.items() if lost}


def _lost(given: NDArray[np.bool_], made: NDArray[np.bool_]) -> int:
    if given.shape == made.shape:
        return int((given & ~made).sum())
    return max(0, int(given.sum()) - int(made.sum()))


def _pairs(before: Zeros, after: Zeros) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    same = {name for name, made in after.items() if name in before and before[name].size == made.size}
    for name in sorted(same):
        yield name, before[name], after[name]
    for size in dict.fromkeys(made.size for made in after.values()):
        given, made = (
            [name for name, each in zeros.items() if each.size == size and name not in same]
            for zeros in (before, after)
        )
        if len(given) == len(made):  # else nobody can tell which is which
            yield from ((new, before[old], after[new]) for old, new in zip(given, made, strict=True))
