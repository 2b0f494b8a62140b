"""Candidates: random ratios by group that all meet the same cost, and a judge that chooses between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.allocation.rates import proportional_allocation
from pipeline.compress.pruning.allocation.target import TOLERANCE
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from pipeline.compress.pruning.allocation.constraints import Constraints
    from pipeline.compress.pruning.allocation.widths import Kept, ReachedCost
    from pipeline.compress.pruning.cost import CostModel

_DRAWS = 10  # for each candidate that is wanted: some miss the target or repeat another's widths


@dataclass(frozen=True)
class JudgedAllocation:
    """One candidate and what the judge gave it."""

    reached: ReachedCost
    value: float


def judged_candidates(
    scores: Mapping[str, Tensor],
    constraints: Constraints,
    model: CostModel,
    target: float,
    judge: Callable[[Kept], float],
    *,
    count: int,
    seed: int,
) -> tuple[JudgedAllocation, ...]:
    """Draw random ratios by group that meet a cost, judge each, and return them with the best first.

    The ratios of a candidate are drawn from U(0, 1) and brought to the target by one common factor.

    Args:
        scores: [width] by group; the lowest leave.
        constraints: what every group keeps at least, and on which grid.
        model: what counts as cost.
        target: the cost of every candidate, in the model's unit.
        judge: a number for the network that keeps these channels, higher is better: accuracy on a part of the
            training images after its batch-norm statistics were computed anew.
        count: how many candidates to judge; fewer where there are not so many with different widths.
        seed: of the draws.

    Returns:
        The candidates within 1 % of the target, of equal value in the order in which they were drawn.

    Source: Li et al., EagleEye, ECCV 2020. Differs: the paper draws until a candidate meets the target by chance.

    Raises:
        InputError: the target cannot be reached, or no candidate came within 1 % of it.
        StageError: a score is not a finite number.

    Cost: `count` judgements.
    """
    judged: dict[tuple[int, ...], JudgedAllocation] = {}
    errors = []
    for reached in _draws(scores, constraints, model, target, _DRAWS * count, seed):
        widths = tuple(len(kept) for kept in reached.kept.values())
        errors.append(abs(reached.error))
        if errors[-1] <= TOLERANCE and widths not in judged:
            judged[widths] = JudgedAllocation(reached, judge(reached.kept))
        if len(judged) == count:
            break
    if not judged:
        raise InputError(
            f"None of {len(errors)} random allocations came within {TOLERANCE:.0%} of {target:.6g} {model.name}; the "
            f"closest was {min(errors):.1%} away. Lower align."
        )
    return tuple(sorted(judged.values(), key=lambda candidate: -candidate.value))


def _draws(
    scores: Mapping[str, Tensor], constraints: Constraints, model: CostModel, target: float, draws: int, seed: int
) -> Iterator[ReachedCost]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        rates = 1 - torch.rand(len(scores), generator=generator, dtype=torch.float64)  # (0, 1]: none stays whole
        drawn = dict(zip(scores, rates.tolist(), strict=True))
        yield proportional_allocation(scores, drawn, constraints).at_cost(model, target)
