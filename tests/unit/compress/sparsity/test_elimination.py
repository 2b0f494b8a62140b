"""Greedy elimination of single weights, and the merging of what rows lose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.compress.sparsity.elimination import eliminate_rows, kept_support, merge_traces, rows_at_once
from pipeline.core.errors import InputError


def positive(width: int, seed: int) -> Tensor:
    """Return a positive definite matrix."""
    drawn = torch.randn(width, 2 * width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn @ drawn.T / width


def weights(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss_without(weight: Tensor, hessian: Tensor, gone: list[int]) -> float:
    """Least loss with the weights at `gone` at zero: w_Q^T ((H^-1)_QQ)^-1 w_Q / 2."""
    inside = torch.linalg.inv(hessian)[gone][:, gone]
    return float(weight[gone] @ torch.linalg.solve(inside, weight[gone]) / 2)


def test_each_step_takes_the_cheapest_weight_of_all() -> None:
    """Forty steps, each against the least loss with any one weight more at zero, from a dense inverse."""
    weight, hessian = weights(1, 40), positive(40, 1)
    traces = eliminate_rows(weight, torch.linalg.inv(hessian)[None])
    gone: list[int] = []
    for step in range(40):
        costs = {j: loss_without(weight[0], hessian, [*gone, j]) for j in range(40) if j not in gone}
        cheapest = min(costs, key=lambda j: costs[j])
        assert int(traces.columns[0, step]) == cheapest
        gone.append(cheapest)
        assert float(traces.losses[0, : step + 1].sum()) == pytest.approx(costs[cheapest], rel=1e-9)


def test_rows_with_hessians_of_their_own_are_the_rows_alone() -> None:
    """Rows neither see one another nor the batch that they are worked on in."""
    weight = weights(5, 24)
    inverses = torch.stack([torch.linalg.inv(positive(24, seed)) for seed in range(5)])
    together = eliminate_rows(weight, inverses, rows=5)
    for row in range(5):
        alone = eliminate_rows(weight[row : row + 1], inverses[row : row + 1])
        assert torch.equal(alone.columns[0], together.columns[row])
        torch.testing.assert_close(alone.losses[0], together.losses[row], rtol=1e-9, atol=0)
    assert torch.equal(eliminate_rows(weight, inverses, rows=2).columns, together.columns)


def test_what_is_zero_leaves_first_and_costs_nothing() -> None:
    """Sparse rows stay sparse: nothing else is cheaper than a weight that is zero."""
    weight = weights(1, 9)
    weight[0, [2, 5]] = 0
    traces = eliminate_rows(weight, torch.linalg.inv(positive(9, 3))[None])
    assert {*traces.columns[0, :2].tolist()} == {2, 5}
    assert traces.losses[0, :2].tolist() == [0, 0]


def test_a_pattern_takes_as_many_of_each_run() -> None:
    """1:4 takes three of four, whatever they cost."""
    traces = eliminate_rows(weights(3, 12), torch.linalg.inv(positive(12, 5))[None], pattern=(1, 4))
    assert traces.columns.shape == (3, 9)
    for row in traces.columns:
        assert torch.bincount(row // 4).tolist() == [3, 3, 3]
        assert len(row.unique()) == 9
    with pytest.raises(InputError, match="2:4 does not divide rows of 10"):
        eliminate_rows(weights(1, 10), torch.linalg.inv(positive(10, 5))[None], pattern=(2, 4))


def test_traces_merge_in_the_order_of_the_largest_loss_so_far() -> None:
    """A cheap step behind a dear one comes with it."""
    first = torch.tensor([[1.0, 9, 2], [3, 4, 5]], dtype=torch.float64)
    second = torch.tensor([[6.0, 7]], dtype=torch.float64)
    assert [each.tolist() for each in merge_traces([first, second], 4)] == [[1, 3], [0]]
    assert [each.tolist() for each in merge_traces([first, second], 6)] == [[1, 3], [2]]
    assert [each.tolist() for each in merge_traces([first, second], 8)] == [[3, 3], [2]]
    with pytest.raises(InputError, match="9 weights cannot leave where 8 may"):
        merge_traces([first, second], 9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=4), st.data())
def test_merged_steps_are_those_of_always_taking_the_cheapest_next_one(
    rows: list[list[int]], data: st.DataObject
) -> None:
    """Against a merge with heads, for any losses with ties."""
    count = data.draw(st.integers(0, 3 * len(rows)))
    (found,) = merge_traces([torch.tensor(rows, dtype=torch.float64)], count)
    assert int(found.sum()) == count
    taken = [0] * len(rows)
    largest = 0.0
    for _ in range(count):
        heads = {row: rows[row][taken[row]] for row in range(len(rows)) if taken[row] < 3}
        row = min(heads, key=lambda each: heads[each])
        largest = max(largest, heads[row])
        taken[row] += 1
    reached = max((max(rows[row][: int(steps)], default=0) for row, steps in enumerate(found)), default=0)
    assert reached == largest


def test_the_support_is_what_has_not_left() -> None:
    """With the identity the order is that of magnitudes."""
    traces = eliminate_rows(weights(2, 4), torch.eye(4, dtype=torch.float64)[None])
    support = kept_support(traces, torch.tensor([1, 3]), 4)
    order = weights(2, 4).abs().argsort(1)
    assert not support[0, order[0, 0]]
    assert support.sum(1).tolist() == [3, 1]
    assert support[1, order[1, 3]]


def test_the_rows_of_a_batch_follow_from_bytes() -> None:
    """64 MiB of inverses, and one row at least."""
    assert rows_at_once(576) == 2**26 // (8 * 576 * 576) == 25
    assert rows_at_once(5000) == 1
