"""Random scores: the baseline that a criterion has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph


def random(graph: ChannelGraph, seed: int) -> dict[str, Tensor]:
    """Return scores drawn from U(0, 1), float64 [width] by group; equal for equal seeds.

    Source: the baseline that Blalock et al. (What is the State of Neural Network Pruning?, MLSys 2020) ask for.
    Cost: none.
    Limits: one draw says little; compare over several seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.width, generator=generator, dtype=torch.float64) for group in graph.groups}
