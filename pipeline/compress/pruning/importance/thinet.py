"""ThiNet: channels without which the next layers' outputs hardly change matter least."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.importance.reconstruction import Products

#: Where the error falls, as contributions cancel, the next score is still higher by this factor.
_STEP = 1 + 1e-9


def thinet(products: Products) -> dict[str, Tensor]:
    """Return the relative error of the next layers' outputs when a channel leaves in greedy order, [width] by group.

    Channels leave one by one, each time the one that makes the squared error of the outputs without all that left
    least. A channel's score, float64, is the largest error up to its turn, so that the order of scores is the order of
    leaving. Errors are relative to the outputs' squares; those of several consuming layers are added.

    Args:
        products: what `reconstruction.consumer_products` returned. With `reconstruction.rescale` the channels that stay
            can then make up for part of the error.

    Source: Luo et al., ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression, ICCV 2017. Differs:
    all layers are measured on the outputs of the whole network; the paper prunes and fine-tunes layer by layer.
    Cost: one forward pass for each batch, 10 passes of each consuming layer, and width^2 for the greedy order.
    Limits: greedy; blind to what happens after the next layer. Channels read by products of activations have no score.
    """
    return {name: _greedy(torch.stack(list(layers.values())).sum(0)) for name, layers in products.items()}


def _greedy(product: Tensor) -> Tensor:
    """Return the error at which each channel leaves, made increasing along the order."""
    scores = torch.empty(len(product), dtype=torch.float64)
    remaining = torch.ones(len(product), dtype=torch.bool)
    with_lost = torch.zeros(len(product), dtype=torch.float64)  # sum of products with all that left
    error = highest = 0.0
    for _ in range(len(product)):
        errors = (error + 2 * with_lost + product.diagonal()).where(remaining, inf)
        channel = int(errors.argmin())
        error = float(errors[channel])
        highest = max(error, highest * _STEP)
        scores[channel] = highest
        remaining[channel] = False
        with_lost += product[channel]
    return scores
