"""Group L2 norm: channels of small weights in all coupled layers matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.importance.slices import summed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.graph import ChannelGraph


def l2(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of squared weights of each class, float64 [width] by group.

    Source: the group norm of DepGraph (Fang et al., CVPR 2023): the squared L2 norm over all slices that leave with a
    channel, the input side of the next layers included. Coupled positions count once.
    Cost: one pass over the weights; no data.
    Limits: blind to the scale of activations, and not comparable between groups unless normalised.
    """
    return summed(graph, tensors, lambda tensor: tensor.square())
