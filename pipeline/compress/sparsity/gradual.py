"""Weights that leave a few at a time while the network trains: automated gradual pruning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pipeline.compress.sparsity.allocation import chosen_masks
from pipeline.compress.sparsity.moving import MaskTiming, MovingMasks, cubic_density, kept_share

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sparsity.allocation import SparsityAim
    from pipeline.compress.sparsity.layers import SparseLayer


class GradualMasks(MovingMasks):
    """Cuts by scores of the weights as they are, down to a density by the cubic ramp; what is cut stays cut.

    Source: automated gradual pruning, Zhu and Gupta 2017. Updates every 100 steps are as good as more frequent ones,
    and the ramp best ends at about four fifths of the training (Gale et al., "The State of Sparsity", 2019).
    """

    def __init__(
        self,
        layers: Sequence[SparseLayer],
        alive: Mapping[str, Tensor],
        aim: SparsityAim,
        score: Callable[[Sequence[SparseLayer]], Mapping[str, Tensor]],
        timing: MaskTiming,
    ) -> None:
        """Take what to come down to, and scores; the rest is that of `MovingMasks`.

        Raises InputError when the weights as they are now could not come down to it: a layer would be left empty.
        """
        super().__init__(layers, alive, timing)
        self.aim, self.score, self.start = aim, score, kept_share(alive.values())
        self._chosen(aim.density)

    def move(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        """Cut down to the density of this step."""
        del model, optimizer
        self.masks = self._chosen(cubic_density(done / self.timing.last, self.start, self.aim.density))

    def _chosen(self, density: float) -> dict[str, Tensor]:
        scores = {
            name: values.masked_fill(~self.masks[name].to(values.device), -torch.inf)
            for name, values in self.score(self.layers).items()
        }
        return chosen_masks(scores, self.layers, replace(self.aim, density=density))
