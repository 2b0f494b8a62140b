"""All one-shot methods by name: what each needs, and how it is run.

To add a method: one file with a pure function, its name in names.py, and one row in the table at the end. A method that
scores weights goes through `by_scores`; one that also changes the weights that stay, such as a second-order one,
returns them in its `Solution`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from pipeline.compress.sparsity.allocation import chosen_masks
from pipeline.compress.sparsity.moving import kept_share
from pipeline.compress.sparsity.scores import magnitude_scores, random_scores
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.pruning.samples import Samples
    from pipeline.compress.sparsity.allocation import SparsityAim
    from pipeline.compress.sparsity.layers import SparseLayer
    from pipeline.compress.sparsity.names import OneShotMethod


@dataclass(frozen=True)
class SparsityRequest:
    """What a method may look at. It changes nothing: new weights stand in what it returns.

    Attributes:
        model: the network, in eval mode, on the CPU.
        layers: the weights that may become zero.
        aim: how many stay, and where zeros may lie.
        alive: by parameter, where a weight is not zero for good already.
        samples: training samples and the task's loss, for methods that need them; none are loaded before.
        seed: of what is drawn.
    """

    model: nn.Module
    layers: Sequence[SparseLayer]
    aim: SparsityAim
    alive: Mapping[str, Tensor]
    samples: Samples
    seed: int


@dataclass(frozen=True)
class Solution:
    """Masks by parameter (bool, true where a weight stays), weights that changed, and what else is to be told."""

    masks: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OneShot:
    """One row: how a method is run, and what it needs: `weights` alone, `inputs` of layers, or `gradients`."""

    run: Callable[[SparsityRequest], Solution]
    needs: Literal["weights", "inputs", "gradients"]


def solve_masks(method: OneShotMethod, request: SparsityRequest) -> Solution:
    """Run one method.

    Raises:
        InputError: channels do not divide by the pattern, a layer would be left empty, or the density is no smaller
            than what earlier masks have left.
    """
    require_fewer(request.aim, request.alive)
    return METHODS[method].run(request)


def require_fewer(aim: SparsityAim, alive: Mapping[str, Tensor]) -> None:
    """Raise InputError where no fewer weights than a density would keep are left of earlier masks."""
    left = kept_share(alive.values())
    if left <= aim.density:
        raise InputError(f"density: found {aim.density:g}, but {left:.3g} of the weights are left: lower it")


def by_scores(score: Callable[[SparsityRequest], Mapping[str, Tensor]]) -> Callable[[SparsityRequest], Solution]:
    """Return a method that keeps the weights with the best scores; those that are zero for good never stay."""

    def run(request: SparsityRequest) -> Solution:
        scores = {name: values.masked_fill(~request.alive[name], -torch.inf) for name, values in score(request).items()}
        return Solution(chosen_masks(scores, request.layers, request.aim))

    return run


METHODS: Mapping[OneShotMethod, OneShot] = {
    "magnitude": OneShot(by_scores(lambda request: magnitude_scores(request.layers)), "weights"),
    "random": OneShot(by_scores(lambda request: random_scores(request.layers, request.seed)), "weights"),
}
