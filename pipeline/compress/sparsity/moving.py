"""Masks that move while a network trains: what every schedule shares.

The network has weights times masks in every forward pass, and gradients of all weights, also of those that are masked.
What a schedule remembers is part of the training's state, so that a training that was killed ends with the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.training.training import Regulariser

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sparsity.layers import SparseLayer


def cubic_density(done: float, start: float, end: float) -> float:
    """Return end + (start - end) * (1 - done)^3: fast at first, slow as little is left; `done` from 0 to 1.

    Source: automated gradual pruning, Zhu and Gupta, "To prune, or not to prune" (2017, arXiv 1710.01878), equation 1.
    """
    return end + (start - end) * (1 - min(1.0, max(0.0, done))) ** 3


@dataclass(frozen=True)
class MaskTiming:
    """When masks move: in steps that `every` divides, the first being 1, up to the step `last`, and in that one.

    `steps` are those of one epoch.
    """

    steps: int
    last: int
    every: int


class MovingMasks(Regulariser):
    """Applies masks after each step. Subclasses move them in `move`; weights that are masked stay zero.

    Epochs that end before the masks' last move cannot be the result.
    """

    def __init__(self, layers: Sequence[SparseLayer], alive: Mapping[str, Tensor], timing: MaskTiming) -> None:
        """Take the layers, where their weights are not zero for good, and when masks move."""
        self.layers, self.timing = tuple(layers), timing
        self.masks = {name: mask.clone() for name, mask in alive.items()}
        self.alive = dict(alive)
        self.counted_from = math.ceil(timing.last / timing.steps) - 1

    def due(self, done: int) -> bool:
        """Return whether masks move after `done` steps."""
        return done % self.timing.every == 0 or done == self.timing.last

    def move(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        """Choose new masks after `done` steps, the first of which is 1."""
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Move the masks when it is time, and apply them."""
        done = step + 1
        if done <= self.timing.last and self.due(done):
            self.move(model, optimizer, done)
        self.apply(model)

    def end_epoch(self, models: Sequence[nn.Module]) -> None:
        """Apply the masks, also to the average of the weights."""
        for model in models:
            self.apply(model)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set weights to zero where their mask is false."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in self.masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)

    def density(self) -> float:
        """Return the share of weights that the masks keep."""
        return kept_share(self.masks.values())

    def state(self) -> dict[str, Any]:
        """Return the masks."""
        return {"masks": self.masks}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.masks = dict(state["masks"])


class DenseBeneath(MovingMasks):
    """Keeps the dense weights under the masks: the optimizer moves them all by the gradient of weights times masks.

    So a weight that is cut can grow again and come back: the gradient passes the mask as if it were not there
    (straight-through). Weight decay acts on all dense weights.
    """

    def __init__(self, layers: Sequence[SparseLayer], alive: Mapping[str, Tensor], timing: MaskTiming) -> None:
        """Take the weights that the layers have now as the dense ones."""
        super().__init__(layers, alive, timing)
        self.dense = {each.name: each.weight.detach().clone() for each in layers}

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, step: int) -> None:
        """Put the dense weights in the place of the masked ones, for the optimizer's step."""
        del step
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, dense in self.dense.items():
            parameters[name].copy_(dense)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Keep what the step has made of the dense weights, move the masks when it is time, and apply them."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.dense = {name: parameters[name].detach().clone() for name in self.dense}
        super().after_step(model, optimizer, step)

    def state(self) -> dict[str, Any]:
        """Return masks and dense weights."""
        return {**super().state(), "dense": self.dense}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        super().restore(state)
        self.dense = dict(state["dense"])


def kept_share(masks: Iterable[Tensor]) -> float:
    """Return the share of weights that masks keep."""
    counted = [(int(mask.sum()), mask.numel()) for mask in masks]
    return sum(kept for kept, _ in counted) / sum(size for _, size in counted)
