"""All one-shot methods by name: what each needs, and how it is run.

To add a method: one file with a pure function, its name in names.py, and one row in the table at the end. A method that
scores weights goes through `by_scores`; one that also changes the weights that stay, such as a second-order one,
returns them in its `Solution`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from pipeline.compress.sparsity.allocation import chosen_masks
from pipeline.compress.sparsity.moving import kept_share
from pipeline.compress.sparsity.request import Solution
from pipeline.compress.sparsity.scores import magnitude_scores, random_scores
from pipeline.compress.sparsity.second_order import obd_scores, solve_block_fisher, solve_obs
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from pipeline.compress.sparsity.allocation import SparsityAim
    from pipeline.compress.sparsity.names import OneShotMethod
    from pipeline.compress.sparsity.request import SparsityRequest


@dataclass(frozen=True)
class OneShot:
    """One row: how a method is run, and what it needs: `weights` alone, `inputs` of layers, or `gradients`."""

    run: Callable[[SparsityRequest], Solution]
    needs: Literal["weights", "inputs", "gradients"]


def solve_masks(method: OneShotMethod, request: SparsityRequest) -> Solution:
    """Run one method.

    Raises:
        InputError: channels do not divide by the pattern, a layer would be left empty, the density is no smaller than
            what earlier masks have left, or a second-order method cannot see a layer (`second_order`).
        StageError: Hessians or gradients are not finite.
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


def by_weights(
    solve: Callable[[SparsityRequest], tuple[dict[str, Tensor], dict[str, Any]]],
) -> Callable[[SparsityRequest], Solution]:
    """Return a method that gives all weights new values, zeros among them."""

    def run(request: SparsityRequest) -> Solution:
        weights, details = solve(request)
        return Solution({name: values != 0 for name, values in weights.items()}, weights, details)

    return run


METHODS: Mapping[OneShotMethod, OneShot] = {
    "magnitude": OneShot(by_scores(lambda request: magnitude_scores(request.layers)), "weights"),
    "obd": OneShot(by_scores(obd_scores), "gradients"),
    "obs": OneShot(by_weights(solve_obs), "inputs"),
    "block_fisher": OneShot(by_weights(solve_block_fisher), "gradients"),
    "random": OneShot(by_scores(lambda request: random_scores(request.layers, request.seed)), "weights"),
}
