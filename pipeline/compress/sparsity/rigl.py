"""RigL: a network that is sparse all the time, whose weakest weights change places with those that would learn most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pipeline.compress.sparsity.allocation import top_mask
from pipeline.compress.sparsity.moving import MaskTiming, MovingMasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sparsity.layers import SparseLayer


def exchanged_mask(weight: Tensor, gradient: Tensor, mask: Tensor, alive: Tensor, count: int) -> Tensor:
    """Return the mask without its `count` smallest |w|, and with as many of the largest |gradient| outside it.

    A weight that was just dropped may be grown again. Where fewer weights could be grown, fewer are dropped: the number
    of ones stays. Weights that are zero for good (`alive` false) are never grown.
    """
    free = int(alive.sum()) - int(mask.sum())
    count = min(count, int(mask.sum()), free)
    if count < 1:
        return mask
    kept = top_mask(weight.abs().masked_fill(~mask, -1.0), int(mask.sum()) - count)
    return kept | top_mask(gradient.abs().masked_fill(kept | ~alive, -1.0), count)


class ExchangingMasks(MovingMasks):
    """Drops a fraction f of the smallest live weights of each layer, and grows as many by the size of gradients.

    New weights start at zero, and the optimizer forgets what it knows of them. f falls by a cosine to zero at the last
    exchange. The density of each layer stays what the first masks have.

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners" (ICML 2020, arXiv 1911.11134), equation 1 and
    algorithm 1. Differs: the first masks come from a trained network, not by chance before training.
    """

    def __init__(
        self,
        layers: Sequence[SparseLayer],
        alive: Mapping[str, Tensor],
        first: Mapping[str, Tensor],
        timing: MaskTiming,
        *,
        fraction: float,
    ) -> None:
        """Take the first masks and the fraction of the first exchange."""
        super().__init__(layers, alive, timing)
        self.masks, self.fraction = dict(first), fraction

    def move(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        """Exchange weights of each layer."""
        share = self.fraction / 2 * (1 + math.cos(math.pi * done / self.timing.last))
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in self.masks.items():
            weight = parameters[name]
            if weight.grad is None:
                continue
            old = mask.to(weight.device)
            count = int(share * int(old.sum()))
            new = exchanged_mask(weight, weight.grad, old, self.alive[name].to(weight.device), count)
            grown = new & ~old
            weight.masked_fill_(grown, 0)
            forget_slots(optimizer, weight, grown)
            self.masks[name] = new


def forget_slots(optimizer: torch.optim.Optimizer, weight: Tensor, where: Tensor) -> None:
    """Set to zero what an optimizer remembers of single weights, such as momentum, in place."""
    for slot in optimizer.state.get(weight, {}).values():
        if isinstance(slot, torch.Tensor) and slot.shape == weight.shape:
            slot.masked_fill_(where, 0)
