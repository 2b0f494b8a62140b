"""L2 norm of filters: channels whose filters have small weights matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.slices import filters, require_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph


def l2(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the Euclidean norm of each channel's filter, float64 [width] by group.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, with the norm of Soft Filter Pruning
    (He et al., IJCAI 2018). Where several layers produce the channels of a group (a residual stream), their norms are
    added.
    Raises: InputError when no weight of two or more dimensions produces the channels of a group.
    Cost: one pass over the weights; no data.
    Limits: blind to norms behind the layer and to the scale of activations; groups compare only after normalisation.
    """
    norms = {group.name: [rows.norm(dim=1) for rows in filters(group, tensors)] for group in graph.groups}
    scores = {name: torch.stack(parts).sum(0) for name, parts in norms.items() if parts}
    require_groups(graph, scores, "l2", "weights of the layers that produce the channels")
    return scores
