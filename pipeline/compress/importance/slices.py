"""What every magnitude criterion does: add up numbers over all slices that a class owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from pipeline.compress.graph import ChannelGraph


def summed(graph: ChannelGraph, tensors: Mapping[str, Tensor], entry: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return for each group the sum of `entry(tensor)` over all slices of each class, float64 [width].

    Tensors that are not in `tensors` add nothing. A tensor that several layers share is counted once.
    """
    scores = {}
    for group in graph.groups:
        score = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            if member.tensor in tensors:
                values = entry(tensors[member.tensor].detach().double().cpu())
                by_index = values.movedim(member.dim, 0).flatten(1).sum(1) if values.dim() > 1 else values
                score += by_index[torch.from_numpy(member.positions)].sum(1)
        scores[group.name] = score
    return scores
