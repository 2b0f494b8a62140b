"""Group Fisher: the curvature of the loss by a channel's gate, for each unit of what the channel costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.pruning.importance.feature_maps import FeatureMaps
from pipeline.compress.pruning.importance.gates import gate_gradients
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches, Loss


def group_fisher(
    captured: CapturedGraph,
    graph: ChannelGraph,
    batches: Batches,
    loss: Loss,
    *,
    channel_cost: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Return the sum over samples of (dL_n / d gate)^2, divided by the channel's cost, float64 [width] by group.

    The gate's gradient is summed over pixels and coupled layers before it is squared, for each sample on its own.

    Args:
        captured: the network.
        graph: its groups.
        batches: (inputs, targets); as many as the estimate needs, a few hundred samples.
        loss: the mean over the batch.
        channel_cost: what one channel of each group costs, by group, such as its milliseconds or operations. Absent:
            the activation memory that it frees, in elements for each sample, over all feature maps of the group.

    Source: Liu et al., Group Fisher Pruning for Practical Network Compression, ICML 2021. Differs:
    the paper removes one channel at a time while it trains, with new sums each time. That loop belongs to the schedule
    of pruning; here are the scores of one state of the network.
    Raises: InputError when a group has no feature map or its cost is not positive; StageError when samples cannot be
        told apart in a map.
    Cost: one forward and backward pass for each batch.
    Limits: a Taylor expansion at a minimum of the loss; far from one the first order, which is left out, dominates.
    """
    maps = FeatureMaps(captured, graph, "group_fisher")
    totals: dict[str, Tensor] = {}
    for effects in gate_gradients(maps, batches, loss):
        totals = {name: totals.get(name, 0) + effect.square().sum(0) for name, effect in effects.items()}
    costs = maps.channel_elements() if channel_cost is None else channel_cost
    unusable = [name for name in totals if not costs.get(name, 0) > 0]
    if unusable:
        raise InputError(f"group_fisher divides by the cost of a channel; it is not positive for {unusable}")
    return {name: total / costs[name] for name, total in totals.items()}
