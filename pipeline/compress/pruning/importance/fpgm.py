"""Geometric median: filters that lie closest to all others are the easiest to replace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.slices import filters, require_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph


def fpgm(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of Euclidean distances to the other filters of the layer, float64 [width] by group.

    Source: He et al., Filter Pruning via Geometric Median, CVPR 2019. Where several layers produce the
    channels of a group, the sums of the layers are added.
    Raises: InputError when no weight of two or more dimensions produces the channels of a group.
    Cost: width^2 distances for each layer; no data.
    Limits: says which filter is redundant, not whether the layer is: of equal filters all score alike, and a dead one
    far from the others scores high. Groups compare only after normalisation.
    """
    sums = {group.name: [torch.cdist(rows, rows).sum(1) for rows in filters(group, tensors)] for group in graph.groups}
    scores = {name: torch.stack(parts).sum(0) for name, parts in sums.items() if parts}
    require_groups(graph, scores, "fpgm", "weights of the layers that produce the channels")
    return scores
