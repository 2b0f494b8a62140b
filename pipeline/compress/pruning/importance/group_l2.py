"""Group L2 norm: channels of small weights in all coupled layers matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.pruning.importance.slices import summed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph


def group_l2(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of squared weights of each class, float64 [width] by group.

    Source: the group norm of DepGraph (Fang et al., CVPR 2023): the squared L2 norm over everything that leaves with a
    channel, the input side of the next layers included. An entry counts once.
    Cost: one pass over the weights; no data.
    Limits: blind to the scale of activations; a norm's scale counts as one weight among thousands; groups compare only
    after normalisation.
    """
    return summed(graph, tensors, lambda tensor: tensor.square())
