"""Values that the weights of a file's layers take, as a report tells them, and where there are more than clusters."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.artifact import FrozenModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

#: The key of a row's `changed` under which a `Sharing` stands.
SHARING = "sharing"


class LayerValues(FrozenModel):
    """How many different weights a layer has, and how many weights; integers where they are quantized.

    `sizes` are the different ones without their signs: a batch norm that is folded in may turn those of a channel.
    """

    values: int
    sizes: int
    weights: int
    quantized: bool


class Sharing(FrozenModel):
    """Different weights of the layers that multiply by weights, counted in a file; layers in its own order."""

    layers: dict[str, LayerValues]

    @classmethod
    def of(cls, weights: Mapping[str, NDArray[np.generic]]) -> Sharing:
        """Count."""
        return cls(
            layers={
                name: LayerValues(
                    values=np.unique(each).size,
                    sizes=np.unique(np.abs(each)).size,
                    weights=each.size,
                    quantized=_is_integer(each),
                )
                for name, each in weights.items()
            }
        )

    def parted(self, clusters: Iterable[tuple[int, int]]) -> int | None:
        """Return the size of a shared layer of which no quantized layer here has as few sizes; None if all have.

        Layers are told apart by their sizes alone, for a converter may rename them; those in float are not counted.

        Args:
            clusters: of each shared layer its number of weights, and of values at most.
        """
        for (size, most), count in Counter(clusters).items():
            alike = [each for each in self.layers.values() if each.weights == size]
            kept = sum(1 for each in alike if not each.quantized or each.sizes <= most)
            if alike and kept < min(count, len(alike)):
                return size
        return None


def _is_integer(weights: NDArray[np.generic]) -> bool:
    """Say whether weights are integers: less their zero points they may be stored as numbers of any type."""
    return weights.dtype.kind in "iu" or bool(np.array_equal(weights, np.rint(weights.astype(np.float64))))
