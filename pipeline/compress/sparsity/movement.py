"""Movement pruning: weights stay that training moves away from zero, however small they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.sparsity.allocation import chosen_masks
from pipeline.compress.sparsity.moving import DenseBeneath, MaskTiming, cubic_density, kept_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sparsity.allocation import SparsityAim
    from pipeline.compress.sparsity.layers import SparseLayer


class MovementMasks(DenseBeneath):
    """Scores are the sum of -w * gradient over all steps; the best stay, down to a density by the cubic ramp.

    Source: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (NeurIPS 2020, arXiv 2005.07683), equation
    4, with hard top-v masks. The gradient is that of the weights times masks, and reaches the masked ones as well.
    Limits: better than magnitude only where a network is tuned to another task, at low densities.
    """

    def __init__(
        self,
        layers: Sequence[SparseLayer],
        alive: Mapping[str, Tensor],
        aim: SparsityAim,
        timing: MaskTiming,
    ) -> None:
        """Take what to come down to; the rest is that of `MovingMasks`."""
        super().__init__(layers, alive, timing)
        self.aim, self.start = aim, kept_share(alive.values())
        self.scores = {each.name: torch.zeros_like(each.weight) for each in layers}

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, step: int) -> None:
        """Add to the scores, and put the dense weights in their place."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, score in self.scores.items():
            gradient = parameters[name].grad
            if gradient is not None and step < self.timing.last:
                score.sub_(self.dense[name] * gradient)
        super().add_gradients(model, step)

    def move(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        """Keep the best by the scores so far; a weight may come back."""
        del model, optimizer
        scores = {
            name: score.masked_fill(~self.alive[name].to(score.device), -torch.inf)
            for name, score in self.scores.items()
        }
        density = cubic_density(done / self.timing.last, self.start, self.aim.density)
        self.masks = chosen_masks(scores, self.layers, replace(self.aim, density=density))

    def state(self) -> dict[str, Any]:
        """Return masks, dense weights and scores."""
        return {**super().state(), "scores": self.scores}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        super().restore(state)
        self.scores = dict(state["scores"])
