"""The least damage for a cost: widths of groups and residual blocks, chosen together by damage per cost.

For a price lambda of one unit of cost, damage + lambda * cost is brought down by changing one group or block at a time,
each to its best; lambda is found by bisection. From the two points next to the target on either side, single steps by
damage per cost lead to the target, then exchanges of one choice for others go on while damage falls. Costs are asked
for at the point itself: what a group saves depends on the widths of its neighbours.

Source: Everett, Generalized Lagrange multiplier method, 1963; latency as the budget of a knapsack as in HALP (Shen et
al., NeurIPS 2022). Differs: costs are whole networks' at the current point, not a table's for one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.pruning.allocation.damage import Choices, damage_curves
from pipeline.compress.pruning.allocation.descent import cheapest, settled, value_at
from pipeline.compress.pruning.allocation.exchange import EVALUATIONS, exchanged, filled, reduced
from pipeline.compress.pruning.allocation.moves import Landscape, Point
from pipeline.compress.pruning.allocation.target import TOLERANCE, nearest_widths, require_reachable
from pipeline.compress.pruning.allocation.widths import ReachedCost, best_classes
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipeline.compress.pruning.allocation.constraints import Constraints
    from pipeline.compress.pruning.cost import CostModel
    from pipeline.compress.pruning.state import NetworkState

_HALVINGS = 16  # of the price, on a logarithmic scale
_DOUBLINGS = 60  # of the price, until the cost is low enough
_STARTS = 3  # drawn points from which one price is tried again
_KEPT = 3  # points on either side of the target that are gone on from


@dataclass(frozen=True)
class Plan:
    """A state, its damage in the unit of the choices, and its cost."""

    state: NetworkState
    damage: float
    cost: float


def least_damage(
    choices: Choices, model: CostModel, target: float, *, seed: int = 0, evaluations: int = EVALUATIONS
) -> Plan:
    """Return the state with the least damage that costs no more than the target.

    Args:
        choices: what may change, and the damage of each choice.
        model: what counts as cost. One with `costs` is asked for all widths of a group at once. With blocks it must
            know networks without them: see `StateCostModel`.
        target: the cost that may not be exceeded, in the model's unit.
        seed: of the points that are drawn.
        evaluations: of the cost, after which no further exchange is tried; 0 for a first answer.

    Returns:
        A state that no single wider group or returning block would leave within the target; a group that could be
        wider for nothing is. Not proved to be the best: exhaustive search finds as good a one in nearly all cases.

    Raises:
        InputError: the cheapest widths without all blocks cost more than the target.

    Cost: some ten thousand evaluations of the model.
    """
    landscape = Landscape(choices, model)
    if landscape.cost(landscape.whole) <= target:
        return _plan(landscape, landscape.whole)
    lowest = cheapest(landscape)
    if (least := landscape.cost(lowest)) > target:
        raise InputError(
            f"The target of {target:.6g} {model.name} cannot be reached: the least is {least:.6g}, with every group at "
            f"its cheapest{' and without all blocks that may leave' if choices.blocks else ''}. Raise the target, or "
            "lower floors and align."
        )
    found = filled(landscape, lowest, target)
    for point in _near(landscape, lowest, target, Random(seed)):  # noqa: S311 - nothing secret
        within = filled(landscape, reduced(landscape, point, target), target)
        if landscape.cost(within) <= target and landscape.damage(within) < landscape.damage(found):
            found = within
    return _plan(landscape, exchanged(landscape, found, target, evaluations))


def adjusted_plan(choices: Choices, model: CostModel, state: NetworkState, target: float) -> Plan:
    """Return a state near the given one that costs no more than the target: few groups and blocks change.

    Arguments are those of `least_damage`. It costs more than the target only where nothing is left to take.
    """
    landscape = Landscape(choices, model)
    grids = choices.grids
    places = {group: grid.index(state.widths.get(group, grid[-1])) for group, grid in grids.items()}
    point = Point(places, state.dropped)
    return _plan(landscape, filled(landscape, reduced(landscape, point, target), target))


def least_cost(choices: Choices, model: CostModel) -> float:
    """Return the least cost of any widths, without all blocks that may leave."""
    landscape = Landscape(choices, model)
    return landscape.cost(cheapest(landscape))


@dataclass(frozen=True)
class KnapsackAllocation:
    """The widths that lose the least score for a cost.

    Attributes:
        scores: [width] by group, comparable between groups. Groups that are to be left alone are not in it.
        constraints: what every group keeps at least, and on which grid.
    """

    scores: Mapping[str, Tensor]
    constraints: Constraints

    def at_cost(self, model: CostModel, target: float, tolerance: float = TOLERANCE) -> ReachedCost:
        """Remove the channels of least score that bring the network to a cost.

        Args:
            model: what counts as cost.
            target: the cost to reach, in the model's unit. It is not exceeded unless nothing below it is as near.
            tolerance: fraction of `target` within which widths are not adjusted any further.

        Raises:
            InputError: the network costs no more than `target` as it is, or it cannot be reached.
            StageError: a score is not a finite number.
        """
        grids = {name: self.constraints.of(name).widths(len(score)) for name, score in self.scores.items()}
        require_reachable(grids, model, target, tolerance)
        least = model.cost({name: grid[0] for name, grid in grids.items()})
        plan = least_damage(Choices(grids, damage_curves(self.scores, grids)), model, max(target, least))
        widths = {name: plan.state.widths.get(name, grid[-1]) for name, grid in grids.items()}
        if plan.cost < (1 - tolerance) * target:
            widths = nearest_widths([widths], grids, model, target, tolerance * target)
        return ReachedCost(best_classes(self.scores, widths), model.cost(widths), target)


def _plan(landscape: Landscape, point: Point) -> Plan:
    return Plan(landscape.state(point), landscape.damage(point), landscape.cost(point))


def _near(landscape: Landscape, lowest: Point, target: float, random: Random) -> list[Point]:
    """Return points that are best at some price and cost about the target, from both sides."""
    found: dict[tuple[object, ...], tuple[float, Point]] = {}

    def seen(point: Point) -> float:
        cost = landscape.cost(point)
        found[(*point.places.values(), point.dropped)] = cost, point
        return cost

    seen(lowest)
    low = high = landscape.damage(lowest) / landscape.cost(landscape.whole) / 64 or 1e-12
    dear, cheap = landscape.whole, lowest
    for _ in range(_DOUBLINGS):
        point = settled(landscape, dear, high)
        if seen(point) <= target:
            cheap = point
            break
        low, high, dear = high, 2 * high, point
    for _ in range(_HALVINGS):
        price = float(np.sqrt(low * high))
        point = min((settled(landscape, start, price) for start in (dear, cheap)), key=value_at(landscape, price))
        if seen(point) <= target:
            high, cheap = price, point
        else:
            low, dear = price, point
    for start in _starts(landscape, random):
        seen(settled(landscape, start, float(np.sqrt(low * high))))
    ordered = sorted(found.values(), key=lambda item: abs(item[0] - target))
    sides = [[point for cost, point in ordered if (cost <= target) == under][:_KEPT] for under in (True, False)]
    return [point for side in sides for point in side]


def _starts(landscape: Landscape, random: Random) -> Iterator[Point]:
    """Yield points with every group anywhere on its grid and half of the blocks."""
    for _ in range(_STARTS):
        places = {group: random.randrange(len(grid)) for group, grid in landscape.choices.grids.items()}
        yield Point(places, frozenset(block for block in landscape.choices.blocks if random.random() < 0.5))  # noqa: PLR2004
