"""Meeting a cost."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress.pruning.allocation import Constraints, GroupConstraint, global_allocation, uniform_allocation
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from pipeline.compress.pruning.cost import CostModel

    Scores = Callable[..., dict[str, Tensor]]
    Chain = Callable[[dict[str, Tensor]], CostModel]


class Sum:
    """A cost of so much per channel of each group."""

    name = "units"

    def __init__(self, whole: Mapping[str, int], **prices: float) -> None:
        self.whole, self.prices = whole, prices

    def cost(self, widths: Mapping[str, int]) -> float:
        """Return the sum over all groups."""
        return sum(price * {**self.whole, **widths}[name] for name, price in self.prices.items())


def test_the_ratio_that_costs_the_target_is_found(scores: Scores) -> None:
    """One unit a channel: 75 of 100 channels are 75 units, those that a ratio of 0.25 leaves."""
    made = scores(60, 40)
    allocation = uniform_allocation(made, Constraints(0.1, 1))
    reached = allocation.at_cost(Sum({"g0": 60, "g1": 40}, g0=1, g1=1), 75)
    assert reached.kept == allocation.at_ratio(0.25)
    assert (reached.cost, reached.error) == (75, 0)


def test_groups_that_change_at_one_ratio_change_one_by_one(scores: Scores) -> None:
    """Four groups of 16 in steps of 8 are 64, then 32 units: the first two alone narrow make 48."""
    names = ["g0", "g1", "g2", "g3"]
    model = Sum(dict.fromkeys(names, 16), **dict.fromkeys(names, 1))
    reached = uniform_allocation(scores(16, 16, 16, 16), Constraints(0.1, 8)).at_cost(model, 48)
    assert [len(kept) for kept in reached.kept.values()] == [8, 8, 16, 16]


def test_a_single_step_adjusts_what_bisection_leaves(scores: Scores) -> None:
    """Whole 880 units, and 580, 480 and 440 on the way: from 580 the step of the last group makes 540."""
    widths = {"g0": 16, "g1": 16, "g2": 16}
    model = Sum(widths, g0=300 / 8, g1=100 / 8, g2=40 / 8)
    reached = uniform_allocation(scores(16, 16, 16), Constraints(0.1, 8)).at_cost(model, 540)
    assert (reached.cost, [len(kept) for kept in reached.kept.values()]) == (540, [8, 16, 8])


def test_a_step_back_and_one_elsewhere(scores: Scores) -> None:
    """Whole 380 units, 280 and 190 on the way: neither step from 280 is nearer to 290, but both together are it."""
    model = Sum({"g0": 16, "g1": 16}, g0=100 / 8, g1=90 / 8)
    reached = uniform_allocation(scores(16, 16), Constraints(0.1, 8)).at_cost(model, 290)
    assert (reached.cost, [len(kept) for kept in reached.kept.values()]) == (290, [16, 8])


def test_what_is_near_enough_is_not_adjusted(scores: Scores) -> None:
    """280 units are within 4 % of 290."""
    model = Sum({"g0": 16, "g1": 16}, g0=100 / 8, g1=90 / 8)
    reached = uniform_allocation(scores(16, 16), Constraints(0.1, 8)).at_cost(model, 290, tolerance=0.04)
    assert (reached.cost, [len(kept) for kept in reached.kept.values()]) == (280, [8, 16])


def test_a_grid_too_coarse_gives_the_nearest(scores: Scores) -> None:
    """Widths of 8, 16, 24 and 32 at one unit a channel: 21 units are nearest to 24, an error of a seventh."""
    reached = uniform_allocation(scores(32), Constraints(0.1, 8)).at_cost(Sum({"g0": 32}, g0=1), 21)
    assert (reached.cost, reached.target, reached.error) == (24, 21, pytest.approx(1 / 7))


def test_floors_without_which_the_target_would_be_met(scores: Scores) -> None:
    """The smallest cost that can be reached is in the message; a hundredth above the target is near enough."""
    allocation = uniform_allocation(scores(32), Constraints(0.5, 8))
    model = Sum({"g0": 32}, g0=1)
    with pytest.raises(InputError, match=r"target of 12 units cannot be reached: .* 16 remain, 0\.500 of the .* 32"):
        allocation.at_cost(model, 12)
    assert allocation.at_cost(model, 15.9).cost == 16


def test_a_target_that_is_met_already_is_refused(scores: Scores) -> None:
    """Nothing would be pruned."""
    with pytest.raises(InputError, match=r"target of 40 units is not below the 32 that"):
        uniform_allocation(scores(32), Constraints(0.1, 8)).at_cost(Sum({"g0": 32}, g0=1), 40)


def test_groups_without_scores_cost_what_they_cost_whole(scores: Scores) -> None:
    """The group that is left alone keeps its 20 units: 10 are left for the other."""
    model = Sum({"g0": 32, "other": 20}, g0=1, other=1)
    assert uniform_allocation(scores(32), Constraints(0.1, 1)).at_cost(model, 30).kept.keys() == {"g0"}
    assert uniform_allocation(scores(32), Constraints(0.1, 1)).at_cost(model, 30).cost == 30


def test_without_floors_no_layer_is_emptied() -> None:
    """The weak group keeps one channel, though a ranking alone would take it whole."""
    scores = {"strong": torch.full((8,), 2.0), "weak": torch.ones(8)}
    reached = global_allocation(scores, Constraints(0, 1)).at_cost(Sum({"strong": 8, "weak": 8}, strong=1, weak=1), 7)
    assert {name: len(kept) for name, kept in reached.kept.items()} == {"strong": 6, "weak": 1}


@given(
    widths=st.lists(st.integers(24, 96), min_size=3, max_size=6),
    fraction=st.floats(0.2, 0.9),
    seed=st.integers(0, 9),
)
def test_every_target_is_met_channel_by_channel(
    scores: Scores, chain: Chain, widths: list[int], fraction: float, seed: int
) -> None:
    """Without a grid, operations come within 1 % for any widths, and no floor is broken."""
    made = scores(*widths, seed=seed)
    model = chain(made)
    target = fraction * model.cost({})
    for build in (uniform_allocation, global_allocation):
        reached = build(made, Constraints(0.1, 1)).at_cost(model, target)
        assert abs(reached.error) <= 0.01
        assert reached.cost == model.cost({name: len(kept) for name, kept in reached.kept.items()})
        assert all(len(kept) >= 0.1 * len(made[name]) - 1e-9 for name, kept in reached.kept.items())


@given(widths=st.lists(st.integers(2, 50), min_size=1, max_size=4), fraction=st.floats(0.05, 0.95))
def test_no_widths_on_the_grid_are_nearer(scores: Scores, chain: Chain, widths: list[int], fraction: float) -> None:
    """Either the target is met, or what was found is the nearest of all combinations."""
    made = scores(*widths)
    constraints = Constraints(0.1, 8, {"g0": GroupConstraint(0.5, 4)})
    model = chain(made)
    target = fraction * model.cost({})
    grids = [constraints.of(name).widths(width) for name, width in zip(made, widths, strict=True)]
    costs = [model.cost(dict(zip(made, kept, strict=True))) for kept in product(*grids)]
    allocation = global_allocation(made, constraints)
    if min(costs) > 1.01 * target:
        with pytest.raises(InputError, match="cannot be reached"):
            allocation.at_cost(model, target)
        return
    reached = allocation.at_cost(model, target)
    assert abs(reached.error) <= max(0.01, min(abs(cost / target - 1) for cost in costs) + 1e-9)
    assert all(len(kept) in grid for kept, grid in zip(reached.kept.values(), grids, strict=True))
