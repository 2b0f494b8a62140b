"""Random allocations that meet a cost, and the one that the judge prefers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.compress.pruning.allocation import Constraints, judged_candidates
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipeline.compress.pruning.allocation import Kept
    from pipeline.compress.pruning.cost import CostModel

    Scores = Callable[..., dict[str, Tensor]]
    Chain = Callable[[dict[str, Tensor]], CostModel]


def first_width(kept: Kept) -> float:
    """Prefer a wide first group."""
    return len(kept["g0"])


def test_all_candidates_meet_the_cost_and_the_best_comes_first(scores: Scores, chain: Chain) -> None:
    """Twelve different allocations of half the operations, in the order of the judge's values."""
    made = scores(48, 64, 96)
    model = chain(made)
    found = judged_candidates(made, Constraints(0.1, 1), model, model.cost({}) / 2, first_width, count=12, seed=3)
    assert len({tuple(map(len, each.reached.kept.values())) for each in found}) == len(found) == 12
    assert all(abs(each.reached.error) <= 0.01 for each in found)
    assert [each.value for each in found] == sorted((len(each.reached.kept["g0"]) for each in found), reverse=True)
    assert found[0].value > found[-1].value + 10


def test_the_seed_decides(scores: Scores, chain: Chain) -> None:
    """Equal seeds give equal candidates, others do not."""
    made = scores(48, 64)

    def search(seed: int) -> list[Kept]:
        model = chain(made)
        found = judged_candidates(made, Constraints(0.1, 1), model, 2000, first_width, count=3, seed=seed)
        return [each.reached.kept for each in found]

    assert search(0) == search(0) != search(1)


def test_no_allocation_is_judged_twice(scores: Scores, chain: Chain) -> None:
    """One group of 32 in steps of 8 has one width for a target: one judgement, one candidate."""
    asked = []

    def judge(kept: Kept) -> float:
        asked.append(kept)
        return 0.0

    made = scores(32)
    assert len(judged_candidates(made, Constraints(0.1, 8), chain(made), 13 * 16, judge, count=5, seed=0)) == 1
    assert [len(kept["g0"]) for kept in asked] == [16]


def test_a_grid_without_widths_at_the_cost_is_refused(scores: Scores, chain: Chain) -> None:
    """Widths of 8 and 16 cost 104 and 208: 156 is half as much again as the nearer one."""
    made = scores(16)
    with pytest.raises(InputError, match=r"None of 20 random allocations came within 1% of 156 .* 33\.3% away"):
        judged_candidates(made, Constraints(0.1, 8), chain(made), 156, first_width, count=2, seed=0)
