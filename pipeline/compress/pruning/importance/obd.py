"""Optimal brain damage with the diagonal of the Fisher matrix: the second-order change of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.gradients import scored_weights, weight_gradients
from pipeline.compress.pruning.importance.request import sample_copies
from pipeline.compress.pruning.importance.slices import summed

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches, Loss


def obd(captured: CapturedGraph, graph: ChannelGraph, batches: Batches, loss: Loss) -> dict[str, Tensor]:
    """Return the sum of h * w^2 / 2 over all that a channel owns, h = mean of g_n^2, float64 [width] by group.

    g_n is the gradient of one sample's loss: gradients of a batch, squared, would be too small by about its size.

    Source: LeCun et al., Optimal Brain Damage, NeurIPS 1989, with the diagonal of the empirical Fisher
    matrix in the place of that of the Hessian, as Theis et al. (Faster Gaze Prediction, 2018) do.
    Cost: one forward and backward pass on two copies of each sample (a captured batch is two or more), or on a whole
    batch of copies where the network fixes its batch. A few hundred samples do.
    Limits: the diagonal leaves out how weights make up for one another, within a filter as well; the empirical Fisher
    matrix is near the Hessian only near a minimum.
    """
    weights = scored_weights(captured, graph)
    copies = 2 if captured.dynamic else len(captured.example[0])
    squares = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    count = 0
    for batch in batches:
        for one in sample_copies(batch, copies):
            for name, gradient in weight_gradients(captured, weights, one, loss).items():
                squares[name] += gradient.double().square()
            count += 1
    saliency = {
        name: square * weights[name].detach().double().square() / (2 * count) for name, square in squares.items()
    }
    return summed(graph, saliency, lambda each: each)
