"""One budget over layers: met, at the least loss, never above break-even, and on the granules."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compress.factorization.budget import (
    LayerChoice,
    cheapest_loss,
    counted_price,
    least_cost,
    within_error,
)
from pipeline.compress.factorization.legs import Factor
from pipeline.compress.factorization.options import Option, RankRule, break_even_rank, layer_options
from pipeline.compress.factorization.sites import Site
from pipeline.core.errors import InputError


def layer(whole: int, *points: tuple[int, float]) -> LayerChoice:
    """Return a layer of this cost that may cost less, with the error that this brings."""
    options = tuple(Option(Factor("svd", (rank,)), cost, cost, error) for rank, (cost, error) in enumerate(points, 1))
    return LayerChoice(whole, whole, options)


def test_what_loses_least_for_what_it_saves_goes_first() -> None:
    """By hand: b saves 60 for 0.06, then a 50 for 0.10, then b 20 more for 0.5."""
    layers = {"a": layer(100, (50, 0.10), (90, 0.09)), "b": layer(100, (20, 0.56), (40, 0.06))}
    price = counted_price(layers, "macs")
    chosen = {allowed: cheapest_loss(layers, price, allowed) for allowed in (200, 140, 139, 90, 70)}
    costs = {allowed: {name: each.macs for name, each in found.items()} for allowed, found in chosen.items()}
    assert costs == {200: {}, 140: {"b": 40}, 139: {"b": 40, "a": 90}, 90: {"b": 40, "a": 50}, 70: {"b": 20, "a": 50}}
    assert least_cost(layers, price) == 70
    with pytest.raises(InputError, match="least ranks leave 70, expected at most 69"):
        cheapest_loss(layers, price, 69)


def test_what_costs_more_than_the_layer_is_no_option() -> None:
    """By a price that is not operations: calls make a low rank dear."""
    layers = {"a": layer(100, (20, 0.5), (40, 0.1)), "b": layer(100, (30, 0.2))}

    def price(name: str, option: Option | None) -> float:
        return 10.0 if option is None else 0.1 * option.macs + (7.0 if name == "a" else 0.0)

    assert least_cost(layers, price) == pytest.approx(9 + 3)
    assert {name: each.macs for name, each in cheapest_loss(layers, price, 19).items()} == {"b": 30}
    assert {name: each.macs for name, each in cheapest_loss(layers, price, 12).items()} == {"a": 20, "b": 30}


OPTIONS = st.lists(st.tuples(st.integers(1, 99), st.floats(0.001, 1)), min_size=1, max_size=5)


@settings(max_examples=200)
@given(st.lists(OPTIONS, min_size=1, max_size=4), st.floats(0, 1))
def test_the_budget_is_met_at_the_least_loss(points: list[list[tuple[int, float]]], share: float) -> None:
    """Against all combinations: never above the budget, and no loss is less, but for what rounding of costs hides."""
    layers = {str(number): layer(100, *each) for number, each in enumerate(points)}
    price = counted_price(layers, "macs")
    least, most = least_cost(layers, price), 100 * len(layers)
    allowed = least + share * (most - least)
    chosen = cheapest_loss(layers, price, allowed)
    cost = sum(chosen[name].macs if name in chosen else 100 for name in layers)
    assert cost <= allowed + 1e-9
    loss = sum(each.error for each in chosen.values())
    every = product(*[[(100, 0.0), *each] for each in points])
    sure = allowed * (1 - len(layers) / 20_000)
    best = min((sum(error for _, error in one) for one in every if sum(each for each, _ in one) <= sure), default=loss)
    assert loss <= best + 1e-9


def test_energy_takes_the_least_operations_within_the_error() -> None:
    """Of each layer for itself; none where all lose more."""
    layers = {"a": layer(100, (20, 0.3), (40, 0.05), (60, 0.01)), "b": layer(100, (20, 0.3))}
    assert {name: each.macs for name, each in within_error(layers, 0.06).items()} == {"a": 40}


@pytest.mark.parametrize(
    ("made", "kind", "size", "expected"),
    [
        (nn.Linear(60, 40), "svd", (1,), 60 * 40 / 100),
        (nn.Conv2d(20, 30, 1), "svd", (5, 5), 20 * 30 / 50),
        (nn.Conv2d(20, 30, 3, padding=1), "spatial", (5, 5), 20 * 30 * 3 / 50),
        (nn.Conv2d(20, 30, 3, padding=1), "channel", (5, 5), 20 * 30 * 9 / (20 * 9 + 30)),
    ],
)
def test_break_even_is_where_the_formula_says(
    made: nn.Module, kind: str, size: tuple[int, ...], expected: float
) -> None:
    """mn/(m+n), CNK/(C+N) and CNK²/(CK²+N); no option reaches it, in operations or in parameters."""
    site = Site("a", made, (kind,), (size,))  # type: ignore[arg-type]
    assert break_even_rank(site, kind) == pytest.approx(expected)  # type: ignore[arg-type]
    found = layer_options(site, site.kinds, None, RankRule(1, 1))
    ranks = [each.factor.ranks[0] for each in found]
    assert ranks == list(range(1, len(ranks) + 1))
    assert max(ranks) < expected <= max(ranks) + 1
    assert all(one.error > two.error for one, two in pairwise(found))


def test_a_stride_moves_break_even() -> None:
    """The second leg of a strided pair sees fewer places, the first of a spatial one more."""
    site = Site("a", nn.Conv2d(8, 8, 3, stride=2, padding=1), ("spatial", "tucker"), ((8, 8),))
    assert break_even_rank(site, "spatial") < 8 * 8 * 3 / 16
    for option in layer_options(site, site.kinds, None, RankRule(1, 1)):
        assert option.macs < site.cost.macs
        assert option.parameters < site.cost.parameters


def test_ranks_lie_on_the_granules() -> None:
    """Multiples of align, from the least rank on; of tucker both."""
    assert RankRule(8, 1).ranks(33) == (8, 16, 24, 32)
    assert RankRule(8, 10).ranks(33) == (16, 24, 32)
    assert RankRule(8, 1).ranks(7) == ()
    torch.manual_seed(0)
    site = Site("a", nn.Conv2d(24, 32, 3, padding=1), ("spatial", "channel", "tucker"), ((6, 6),))
    found = layer_options(site, site.kinds, None, RankRule(8, 9))
    assert {each.factor.kind for each in found} == set(site.kinds)
    assert {rank for each in found for rank in each.factor.ranks} == {16, 24, 32, 40}
    assert max(each.factor.ranks for each in found if each.factor.kind == "tucker") <= (24, 32)
