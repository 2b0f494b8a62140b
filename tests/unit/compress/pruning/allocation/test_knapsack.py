"""The least damage for a cost, against exhaustive search and exact integer programming."""

from __future__ import annotations

from itertools import combinations, product
from math import ceil, inf
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from pipeline.compress.pruning.allocation import (
    Choices,
    Constraints,
    KnapsackAllocation,
    damage_curves,
    global_allocation,
    least_damage,
)
from pipeline.compress.pruning.cost import ProductsModel
from pipeline.compress.pruning.graph import Axis, Group
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.compress.pruning.cost import CostModel

    Scores = Callable[..., dict[str, Tensor]]
    Chain = Callable[[dict[str, Tensor]], CostModel]


class Coupled:
    """Milliseconds with all that makes them hard: products of two groups, steps, calls, blocks and an overhead."""

    name = "milliseconds"

    def __init__(self, choices: Choices, generator: np.random.Generator) -> None:
        self.whole = {group: grid[-1] for group, grid in choices.grids.items()}
        names = list(self.whole)
        pairs = [tuple(generator.choice(names, 2)) for _ in range(len(names) + 2)]
        self.layers = [(*pair, generator.uniform(0.3, 2), self._blocks(choices, pair)) for pair in pairs]
        self.own = {block: generator.uniform(0.2, 1.5) for block in choices.blocks}
        self.overhead, self.call = generator.uniform(0, 3), generator.uniform(0, 0.5)
        self.granule = int(generator.choice([1, 8, 16]))

    @staticmethod
    def _blocks(choices: Choices, pair: Sequence[str]) -> frozenset[str]:
        return frozenset(block for block, groups in choices.inside.items() if groups & set(pair))

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the time of a state."""
        sizes = {
            group: ceil(width / self.granule) * self.granule / 8 for group, width in {**self.whole, **widths}.items()
        }
        total = self.overhead + sum(ms for block, ms in self.own.items() if block not in dropped)
        for first, second, ms, blocks in self.layers:
            if not blocks & set(dropped):
                total += self.call + ms * sizes[first] * sizes[second] / 8
        return float(total)

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[np.float64]:
        """Return the times of a state with the group at each width."""
        return np.array([self.cost({**state.widths, group: width}, state.dropped) for width in widths])


def drawn(seed: int) -> tuple[Choices, Coupled, float]:
    """Return a small network, its model and a target that can be reached."""
    generator = np.random.default_rng(seed)
    grids = {
        f"g{index}": sorted(generator.choice(range(4, 33, 4), generator.integers(3, 6), replace=False).tolist())
        for index in range(generator.integers(3, 6))
    }
    scores = {group: torch.from_numpy(generator.gamma(1, 1, grid[-1]) ** 2) for group, grid in grids.items()}
    damage = damage_curves(scores, grids)
    blocks = [f"g{index}" for index in range(generator.integers(0, 4))]  # named like groups, as modules may be
    choices = Choices(
        grids,
        damage,
        {block: generator.uniform(0.5, 2) * float(damage[block][0]) for block in blocks},
        {block: frozenset({block}) for block in blocks},
    )
    model = Coupled(choices, generator)
    least = model.cost({group: grid[0] for group, grid in grids.items()}, choices.blocks)
    return choices, model, least + generator.uniform(0.05, 0.9) * (model.cost({}) - least)


def optimum(choices: Choices, model: Coupled, target: float) -> float:
    """Return the least damage of all states within the target."""
    least = inf
    for count in range(len(choices.blocks) + 1):
        for dropped in combinations(choices.blocks, count):
            gone = {group for block in dropped for group in choices.inside[block]}
            left = [group for group in choices.grids if group not in gone]
            for places in product(*(range(len(choices.grids[group])) for group in left)):
                damage = sum(choices.blocks[block] for block in dropped)
                damage += sum(float(choices.damage[group][place]) for group, place in zip(left, places, strict=True))
                widths = {group: choices.grids[group][place] for group, place in zip(left, places, strict=True)}
                if damage < least and model.cost(widths, dropped) <= target:
                    least = damage
    return least


def test_small_networks_are_as_good_as_exhaustive_search_finds_and_never_over_the_target() -> None:
    """Damage is within 5 % of the least in nearly all of 16 networks."""
    worse = 0
    for seed in range(16):
        choices, model, target = drawn(seed)
        plan = least_damage(choices, model, target)
        assert model.cost(plan.state.widths, plan.state.dropped) == pytest.approx(plan.cost)
        assert plan.cost <= target
        worse += plan.damage > 1.05 * optimum(choices, model, target)
    assert worse <= 1


def test_separable_costs_agree_with_integer_programming() -> None:
    """HiGHS solves the choice of one width of each of eight groups exactly."""
    generator = np.random.default_rng(4)
    grids = {f"g{index}": list(range(4, 65, 4)) for index in range(8)}
    damage = damage_curves({group: torch.from_numpy(generator.gamma(1, 1, 64)) for group in grids}, grids)
    prices = dict(zip(grids, generator.uniform(0.5, 2, 8).tolist(), strict=True))
    groups = [Group(group, 64, ()) for group in grids]
    model = ProductsModel("units", groups, [(price, (Axis(0, {group: 1}),)) for group, price in prices.items()])
    target = 0.55 * model.cost({})
    loss = np.concatenate([damage[group] for group in grids])
    cost = np.concatenate([prices[group] * np.array(grid) for group, grid in grids.items()])
    one = np.kron(np.eye(8), np.ones(16))
    exact = milp(
        loss,
        constraints=[LinearConstraint(cost[None], -inf, target), LinearConstraint(one, 1, 1)],
        integrality=np.ones(128),
        bounds=Bounds(0, 1),
    )
    plan = least_damage(Choices(grids, damage), model, target)
    assert plan.cost <= target
    assert exact.fun * (1 - 1e-6) <= plan.damage <= 1.005 * exact.fun


def test_no_width_inside_a_granule_is_chosen_when_the_full_one_costs_the_same() -> None:
    """All widths of a plan are multiples of the step of the time, although the grid is finer."""
    choices = Choices(grids := {"g0": range(1, 33), "g1": range(1, 33)}, _linear(grids))
    model = Coupled(choices, np.random.default_rng(0))
    model.granule = 8
    plan = least_damage(choices, model, 0.5 * model.cost({}) + 0.5 * model.overhead)
    assert plan.state.widths
    assert all(width % 8 == 0 for width in plan.state.widths.values())


def _linear(grids: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float64]]:
    return {group: np.array(grid[-1]) - np.array(grid, np.float64) for group, grid in grids.items()}


def test_a_block_leaves_when_it_does_less_damage_and_takes_its_groups_along() -> None:
    """The block saves its own time and that of its group, whose width is then no part of the plan."""
    grids = {"stream": [8, 16], "inner": [8, 16, 24]}
    choices = Choices(grids, _linear(grids), {"block": 1.0}, {"block": frozenset({"inner"})})
    model = Coupled(choices, np.random.default_rng(0))
    model.layers, model.own = [("stream", "inner", 1.0, frozenset({"block"}))], {"block": 1.0}
    assert least_damage(choices, model, 0.9 * model.cost({})).state == NetworkState({}, frozenset({"block"}))


def test_what_cannot_be_reached_names_the_least() -> None:
    """The message has the floor's cost."""
    choices, model, _ = drawn(0)
    least = model.cost({group: grid[0] for group, grid in choices.grids.items()}, choices.blocks)
    with pytest.raises(InputError, match=f"the least is {least:.6g}"):
        least_damage(choices, model, 0.99 * least)


def test_a_target_above_the_whole_changes_nothing() -> None:
    """The whole network is within it."""
    choices, model, _ = drawn(1)
    assert least_damage(choices, model, model.cost({})).state == NetworkState()


def test_curves_sum_the_lowest_scores_and_are_scaled_to_what_was_measured() -> None:
    """Of scores 3, 1, 2 the lowest leave first; negative ones count as nothing."""
    grids = {"a": [1, 2, 3]}
    scores = {"a": torch.tensor([3.0, 1.0, 2.0])}
    assert damage_curves(scores, grids)["a"].tolist() == [3, 1, 0]
    assert damage_curves(scores, grids, {"a": (2, 0.5)})["a"].tolist() == [1.5, 0.5, 0]
    assert damage_curves(scores, grids, {"a": (2, -0.5)})["a"].tolist() == [0, 0, 0]
    assert damage_curves({"a": torch.tensor([3.0, -1.0, 2.0])}, grids)["a"].tolist() == [2, 0, 0]
    assert damage_curves({"a": torch.zeros(3)}, grids, {"a": (1, 4.0)})["a"].tolist() == [4, 2, 0]
    with pytest.raises(StageError, match="not finite"):
        damage_curves({"a": torch.tensor([1.0, float("nan"), 2.0])}, grids)


def test_the_allocation_meets_a_cost_with_less_damage_than_a_global_ranking(scores: Scores, chain: Chain) -> None:
    """Both meet the target within 1 %; scores of groups differ a hundredfold."""
    made = scores(48, 64, 32, seed=3)
    model, constraints = chain(made), Constraints(0.1, 4)
    target = 0.5 * model.cost({})
    reached = KnapsackAllocation(made, constraints).at_cost(model, target)
    other = global_allocation(made, constraints).at_cost(model, target)
    assert abs(reached.error) <= 0.01
    assert _kept_score(made, reached.kept) >= _kept_score(made, other.kept) * (1 - 1e-9)


def _kept_score(scores: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]) -> float:
    return sum(float(scores[group][list(channels)].sum()) for group, channels in kept.items())


def test_the_allocation_names_the_least_cost(scores: Scores, chain: Chain) -> None:
    """As other allocations do."""
    made = scores(16, 16)
    with pytest.raises(InputError, match="cannot be reached: with every group at its floor 168 remain"):
        KnapsackAllocation(made, Constraints(0.5, 8)).at_cost(chain(made), 80)


def test_products_price_all_widths_of_a_group_at_once() -> None:
    """The same costs as one by one."""
    groups = [Group("a", 8, ()), Group("b", 6, ())]
    model = ProductsModel("units", groups, [(2, (Axis(1, {"a": 2}), Axis(0, {"b": 1}))), (3, (Axis(0, {"b": 1}),))])
    state = NetworkState({"a": 5})
    expected = [model.cost({"a": 5, "b": width}) for width in range(1, 7)]
    assert model.costs(state, "b", range(1, 7)).tolist() == expected
    with pytest.raises(ValueError, match="without blocks"):
        model.cost({}, {"block"})
