"""How much each value of a tensor differs between images, and where 8 bits would hold nothing of that.

A large constant, such as a bias of a million, makes the steps of a tensor larger than all that its other values do:
rounded to them, the tensor is the same for every image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.compress.quantization.calibration import Range, Tensors

#: Steps of 8 bits in a range.
STEPS = 255
#: What differs by less than this share of a value is the rounding of float32.
ROUNDING = 1e-6
#: What differs by less than this share of a step falls on one step nearly everywhere.
SHARE = 1 / 16


class Variation:
    """Smallest and largest value over the images at each place of tensors [N, ...] whose first dimension are images."""

    def __init__(self) -> None:
        self._bounds: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def add(self, tensors: Tensors, images: int) -> None:
        """Look at the tensors of a batch of that many images; what has no row for each image is left out."""
        for name, values in tensors.items():
            if values.ndim and len(values) == images and values.size:
                self._widen(name, values.min(axis=0), values.max(axis=0))

    def _widen(self, name: str, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        before = self._bounds.get(name, (low, high))
        if before[0].shape == low.shape:
            self._bounds[name] = np.minimum(before[0], low), np.maximum(before[1], high)

    def hidden(self, ranges: Mapping[str, Range]) -> set[str]:
        """Return the tensors that differ between images, but everywhere by less than `SHARE` of a step."""
        return {name for name, bounds in self._bounds.items() if name in ranges and _is_hidden(*bounds, ranges[name])}


def _is_hidden(low: NDArray[np.float32], high: NDArray[np.float32], bounds: Range) -> bool:
    step = (max(bounds[1], 0.0) - min(bounds[0], 0.0)) / STEPS
    differs = high.astype(np.float64) - low
    real = differs > ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return bool(real.any()) and float(differs[real].max()) < SHARE * step
