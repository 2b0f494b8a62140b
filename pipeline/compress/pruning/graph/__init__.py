"""Coupled channels: which slices of which tensors must be removed together, read from the exported graph.

Every dimension of every stored tensor gets atoms, and the rules of graph_rules.py carry them through the captured
graph (graph_walk.py). What remains free is grouped (graph_groups.py): classes that own slices of the same dimensions
of the same tensors form one group, such as the channels of a residual stage.

Source: the notion of dependency groups is that of DepGraph (Fang et al., CVPR 2023); joining positions on the operator
graph instead of module types, with unknown operators freezing what they touch, is this project's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.pruning.graph.groups import collect
from pipeline.compress.pruning.graph.labels import Options
from pipeline.compress.pruning.graph.types import (
    Axis,
    ChannelGraph,
    Contraction,
    FeatureMap,
    Frozen,
    Group,
    Member,
    layer_of,
)
from pipeline.compress.pruning.graph.walk import walk

if TYPE_CHECKING:
    from pipeline.compress.names import StatisticsRule
    from pipeline.compress.pruning.graph.capture import CapturedGraph

__all__ = [
    "Axis",
    "ChannelGraph",
    "Contraction",
    "FeatureMap",
    "Frozen",
    "Group",
    "Member",
    "layer_of",
    "trace_channels",
]


def trace_channels(
    captured: CapturedGraph, *, statistics: StatisticsRule = "allow", heads: bool = False
) -> ChannelGraph:
    """Find the coupled channels of a captured network.

    Args:
        captured: the network's graph.
        statistics: whether channels may leave over which the network takes a mean, a norm or a softmax. Those are then
            taken over the channels that stay: another function than with zeros in the others.
        heads: attention heads leave whole, instead of the same dimensions of every head.

    Cost: one pass over the graph with integer arrays as long as the dimensions.
    Limits: two dimensions with channels that the network merges into one: the narrower is not pruned.
    """
    return collect(walk(captured, Options(statistics, heads)), captured)
