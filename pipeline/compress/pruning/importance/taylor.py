"""First-order Taylor expansion on weights: channels whose removal changes the loss least matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.pruning.importance.gradients import scored_weights, weight_gradients
from pipeline.compress.pruning.importance.slices import summed

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches, Loss


def taylor(captured: CapturedGraph, graph: ChannelGraph, batches: Batches, loss: Loss) -> dict[str, Tensor]:
    """Return the mean over batches of (sum of g * w)^2, the sum over all that a channel owns, float64 [width] by group.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, in its form for
    groups;
    gradients g are those of a batch, as in the paper. Differs: sums over everything that leaves with a channel, and the
    weights stay fixed in between, where the paper averages while it trains.
    Cost: one forward and backward pass for each batch.
    Limits: near zero at a minimum, where it measures noise of batches: take the batch size of training. A channel that
    many layers in a row own is counted once for each.
    """
    weights = scored_weights(captured, graph)
    totals: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        gradients = weight_gradients(captured, weights, batch, loss)
        products = {name: gradient.double() * weights[name].detach() for name, gradient in gradients.items()}
        change = summed(graph, products, lambda product: product)
        totals = {name: totals.get(name, 0) + score.square() for name, score in change.items()}
        count += 1
    return {name: total / count for name, total in totals.items()}
