"""Scores of single weights that need no data: what is small, and chance as the control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipeline.compress.sparsity.layers import SparseLayer


def magnitude_scores(layers: Sequence[SparseLayer]) -> dict[str, Tensor]:
    """Return |w| of each weight, by the name of the parameter.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (NIPS 2015,
    arXiv 1506.02626), without its retraining. Limits: it knows nothing of the inputs, so that layers before a norm,
    whose scale is arbitrary, are comparable with others only by `scope: layer`.
    """
    return {each.name: each.weight.detach().abs() for each in layers}


def random_scores(layers: Sequence[SparseLayer], seed: int) -> dict[str, Tensor]:
    """Return uniform numbers from 0 to 1, drawn with `seed`: what a method has to beat to have found anything."""
    generator = torch.Generator().manual_seed(seed)
    return {each.name: torch.rand(each.weight.shape, generator=generator) for each in layers}
