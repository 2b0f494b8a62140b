"""First-order Taylor expansion on feature maps: channels whose removal changes the loss least matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.pruning.importance.feature_maps import FeatureMaps
from pipeline.compress.pruning.importance.gates import gate_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches, Loss


def taylor_gates(captured: CapturedGraph, graph: ChannelGraph, batches: Batches, loss: Loss) -> dict[str, Tensor]:
    """Return the mean over samples of |sum of a * dL/da| over a channel's feature maps, float64 [width] by group.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017.
    Differs: the sum over pixels, not the mean, which makes it the change of the loss itself and comparable
    between layers without the paper's division by the layer's norm; coupled layers are summed before the absolute
    value.
    Raises: InputError when a group has no feature map; StageError when samples cannot be told apart in one.
    Cost: one forward and backward pass for each batch.
    Limits: first order: blind to channels whose removal matters only together.
    """
    totals: dict[str, Tensor] = {}
    count = 0
    for effects in gate_gradients(FeatureMaps(captured, graph, "taylor_gates"), batches, loss):
        totals = {name: totals.get(name, 0) + effect.abs().sum(0) for name, effect in effects.items()}
        count += len(next(iter(effects.values())))
    return {name: total / count for name, total in totals.items()}
