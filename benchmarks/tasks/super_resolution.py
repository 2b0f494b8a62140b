"""Pairs for super resolution: canvases without grain (`canvases.py`), and the means of their squares as bytes.

They are synthetic, as the canvases are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from canvases import canvases

from pipeline.core.dataset import Arrays, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray


def load(
    scale: int = 2, size: int = 96, train: int = 2000, validation: int = 300, test: int = 1000, seed: int = 0
) -> Arrays:
    """Return images float32 [1, size / scale, size / scale] from 0 to 1, and as targets those of `size`."""
    made = canvases((train, validation, test), size, 5, seed, grain=0.0)
    splits = {name: _pairs(np.stack([each[0] for each in split]), scale) for name, split in made.items()}
    return Arrays("canvases-super-resolution", **splits, licence="MIT", notes=("synthetic: canvases of Fashion-MNIST",))


def _pairs(images_NHW: NDArray[np.uint8], scale: int) -> Samples:
    count, height, width = images_NHW.shape
    squares = images_NHW.reshape(count, height // scale, scale, width // scale, scale)
    small = squares.mean(axis=(2, 4)).round().astype(np.float32) / 255
    return Samples({"image": small[:, None]}, (images_NHW.astype(np.float32) / 255)[:, None])
