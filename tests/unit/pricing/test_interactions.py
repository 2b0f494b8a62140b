"""Moves that do much harm together are found by measuring plans, not by adding up what each does alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.pruning.allocation.damage import Choices
from pipeline.compress.pruning.allocation.knapsack import least_damage
from pipeline.pricing.interactions import price_together

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.state import NetworkState

#: Milliseconds that each move saves of 10.
BLOCKS = {"a": 3.0, "b": 3.0}
GRIDS = {"g": (8, 16)}


class Saved:
    """10 ms, less what the blocks and half of the group take."""

    name = "milliseconds"

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the milliseconds of a state."""
        return 10 - sum(BLOCKS[name] for name in dropped) - (3.0 if widths.get("g", 16) < 16 else 0.0)

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[np.float64]:
        """Return the milliseconds of a state with the group at each width."""
        return np.array([self.cost({**state.widths, group: width}, state.dropped) for width in widths])


CHOICES = Choices(GRIDS, {"g": np.array([0.4, 0.0])}, {"a": 0.1, "b": 0.1})


def solve(choices: Choices) -> NetworkState:
    """Return the plan for 4 ms, which takes two of the three moves."""
    return least_damage(choices, Saved(), 4.0).state


def loss(state: NetworkState) -> float:
    """Return a loss where one block can stand in for the other, so that both together are worth 5."""
    together = 5.0 if len(state.dropped) > 1 else 0.1 * len(state.dropped)
    return 1.0 + together + (0.4 if state.widths else 0.0)


def test_two_blocks_that_stand_in_for_each_other_do_not_leave_both() -> None:
    """Alone each is cheap, so that the first plan drops both; within that plan each is worth 4.9."""
    assert solve(CHOICES).dropped == {"a", "b"}
    found, losses = price_together(CHOICES, solve, loss, seed=0, told=lambda *_: None)
    assert len(solve(found).dropped) == 1
    assert (losses[0], min(losses)) == (6.0, 1.5)


def test_plans_that_add_up_keep_their_prices() -> None:
    """Where damages add up, prices within a plan are those alone, and the first plan stays the best."""

    def additive(state: NetworkState) -> float:
        return 0.1 * len(state.dropped) + (0.4 if state.widths else 0.0)

    found, losses = price_together(CHOICES, solve, additive, seed=0, told=lambda *_: None)
    assert solve(found).dropped == {"a", "b"}
    assert min(losses) == losses[0]


def test_the_same_seed_finds_the_same() -> None:
    """Prices are drawn from the seed."""
    first, second = (price_together(CHOICES, solve, loss, seed=3, told=lambda *_: None) for _ in range(2))
    assert first[1] == second[1]
    assert first[0].blocks == second[0].blocks
