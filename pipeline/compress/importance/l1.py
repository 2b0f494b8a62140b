"""L1 norm: channels of small absolute weights matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.importance.slices import summed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.graph import ChannelGraph


def l1(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of absolute weights of each class, float64 [width] by group.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
    Differs: sums over all slices that a class owns (coupled layers, norms, and the input side of the next layers), not
    over one layer's filters. Coupled positions count once.
    Cost: one pass over the weights; no data.
    Limits: blind to the scale of activations, and not comparable between groups unless normalised.
    """
    return summed(graph, tensors, lambda tensor: tensor.abs())
