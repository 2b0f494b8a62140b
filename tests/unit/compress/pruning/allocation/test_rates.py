"""Rates by group, patterns that name groups, and losses in proportion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress.pruning.allocation import (
    Constraints,
    GroupConstraint,
    by_pattern,
    explicit_rates,
    proportional_allocation,
)
from pipeline.compress.pruning.graph import Group, Member
from pipeline.core.errors import InputError

ONE = Constraints(0.1, 1)


def group(name: str, *layers: str) -> Group:
    """Return a group of two channels that these layers produce."""
    positions = np.arange(2)[:, None]
    return Group(name, 2, tuple(Member(f"{layer}.weight", 0, positions, consumes=False) for layer in (name, *layers)))


def test_patterns_name_groups_by_any_of_their_layers() -> None:
    """The last pattern that names a group holds; a group that none names is absent."""
    groups = [group("stem", "layer1.0.conv2"), group("layer1.0.conv1"), group("layer2.0.conv1"), group("fc")]
    assert by_pattern(groups, {"layer1.*": 0.2, "layer*.conv1": 0.5, "stem": 0.1}) == {
        "stem": 0.1,
        "layer1.0.conv1": 0.5,
        "layer2.0.conv1": 0.5,
    }


def test_a_pattern_that_names_nothing_is_refused() -> None:
    """The message has the pattern and the groups."""
    with pytest.raises(InputError, match=r"Found 'layer9\.\*', which names no group .* Groups: stem, fc"):
        by_pattern([group("stem"), group("fc")], {"layer9.*": 0.5})


def test_each_group_loses_its_own_rate() -> None:
    """A quarter and a half of eight; a group without a rate stays whole."""
    scores = {name: torch.arange(8.0) for name in "abc"}
    assert explicit_rates(scores, {"a": 0.25, "b": 0.5}, ONE) == {
        "a": (2, 3, 4, 5, 6, 7),
        "b": (4, 5, 6, 7),
        "c": tuple(range(8)),
    }


def test_rates_are_rounded_to_the_grid() -> None:
    """0.3 of 64 leaves 44.8: 48 is nearest; a group no wider than its grid stays whole."""
    kept = explicit_rates({"a": torch.arange(64.0), "b": torch.arange(8.0)}, {"a": 0.3, "b": 0.5}, Constraints(0.1, 8))
    assert (len(kept["a"]), len(kept["b"])) == (48, 8)


@pytest.mark.parametrize(
    ("rate", "floor", "expected"),
    [
        (1.0, 0.0, r"rate 1\.0 keeps 0 of the 16 channels of 'conv', of which 1 must"),
        (0.98, 0.0, r"rate 0\.98 keeps 0\.32 of the 16 channels of 'conv', of which 1 must"),
        (0.8, 0.5, r"rate 0\.8 keeps 3\.2 of the 16 channels of 'conv', of which 8 must"),
    ],
)
def test_rates_that_contradict_the_floor_or_empty_a_layer(rate: float, floor: float, expected: str) -> None:
    """The layer is named."""
    with pytest.raises(InputError, match=expected):
        explicit_rates({"conv": torch.arange(16.0)}, {"conv": rate}, Constraints(floor, 1))


def test_losses_in_proportion() -> None:
    """At a quarter of 40 channels, the rates 2 : 1 take 20 x 2s + 20 x s = 10, so s = 1/6."""
    allocation = proportional_allocation(
        {"a": torch.ones(20), "b": torch.ones(20)}, {"a": 2, "b": 1}, Constraints(0, 1)
    )
    assert allocation.wanted(0.25) == pytest.approx({"a": 20 * 2 / 3, "b": 20 * 5 / 6})
    assert allocation.wanted(0) == {"a": 20, "b": 20}
    assert allocation.wanted(0.75) == pytest.approx({"a": 0, "b": 10})
    assert allocation.wanted(1) == pytest.approx({"a": 0, "b": 0})


def test_groups_that_cannot_move_take_no_part() -> None:
    """Rate zero, no rate, or a width of the grid: not in the result, which means whole."""
    scores = {"a": torch.ones(16), "zero": torch.ones(16), "none": torch.ones(16), "narrow": torch.ones(8)}
    kept = proportional_allocation(scores, {"a": 0.5, "zero": 0, "narrow": 1}, Constraints(0.1, 8)).at_ratio(0.5)
    assert kept == {"a": tuple(range(8))}


@given(
    st.lists(st.tuples(st.integers(2, 50), st.floats(0.01, 1)), min_size=1, max_size=6),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.25]),
)
def test_proportional_losses_add_up(groups: list[tuple[int, float]], ratio: float, floor: float) -> None:
    """Without floors the fraction over all groups is the ratio; with them each group keeps its own."""
    scores = {str(index): torch.ones(width) for index, (width, _) in enumerate(groups)}
    rates = {str(index): rate for index, (_, rate) in enumerate(groups)}
    total = sum(width for width, _ in groups)
    constraints = Constraints(1, 1, {name: GroupConstraint(floor, 1) for name in scores})
    wanted = proportional_allocation(scores, rates, constraints).wanted(ratio)
    assert all(wanted[name] >= floor * len(score) - 1e-9 for name, score in scores.items())
    if not floor:
        assert sum(wanted.values()) == pytest.approx((1 - ratio) * total, abs=1e-6)
