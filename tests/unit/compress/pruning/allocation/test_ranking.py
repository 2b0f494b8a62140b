"""Uniform, global and isomorphic allocation at a ratio of the channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress.pruning.allocation import (
    Constraints,
    GroupConstraint,
    global_allocation,
    isomorphic_allocation,
    uniform_allocation,
    uniform_kept,
)
from pipeline.compress.pruning.graph import ChannelGraph, Group, Member
from pipeline.compress.pruning.importance.normalise import normalised_scores
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from pipeline.compress.pruning.allocation import Kept

    Scores = Callable[..., dict[str, Tensor]]

ONE = Constraints(0.1, 1)


def global_ranking(scores: Mapping[str, Tensor], ratio: float, *, floor: float, align: int) -> Kept:
    """Remove the fraction that one ranking of scores divided by their means puts last."""
    return global_allocation(normalised_scores(scores, "mean"), Constraints(floor, align)).at_ratio(ratio)


def lengths(kept: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return how many channels each group keeps."""
    return {name: len(indices) for name, indices in kept.items()}


def test_uniform_keeps_the_best_of_each_group() -> None:
    """Half of each group stays: the half with the highest scores, in ascending order of index."""
    kept = uniform_kept(
        {"a": torch.tensor([3.0, 1.0, 4.0, 2.0]), "b": torch.tensor([1.0, 5.0])}, 0.5, floor=0.1, align=1
    )
    assert kept == {"a": (0, 2), "b": (1,)}


@pytest.mark.parametrize("allocate", [uniform_kept, global_ranking])
def test_equal_scores_keep_the_first(allocate: object) -> None:
    """Ties are broken by index: the highest leaves."""
    assert callable(allocate)
    assert allocate({"a": torch.ones(8)}, 0.5, floor=0.1, align=1) == {"a": (0, 1, 2, 3)}


def test_global_ranking_compares_groups_by_their_mean() -> None:
    """A group whose scores are all alike loses nothing to one that has clear losers, whatever their scales."""
    even = torch.full((8,), 1e-3)
    uneven = torch.tensor([1e3] * 4 + [1.0] * 4)
    assert global_ranking({"even": even, "uneven": uneven}, 0.25, floor=0.1, align=1) == {
        "even": tuple(range(8)),
        "uneven": (0, 1, 2, 3),
    }


def test_a_global_allocation_takes_scores_as_they_are() -> None:
    """The three lowest of all leave: 1, 2 and 3."""
    scores = {"a": torch.tensor([1.0, 9.0, 3.0, 8.0]), "b": torch.tensor([7.0, 2.0])}
    assert global_allocation(scores, ONE).at_ratio(0.5) == {"a": (1, 3), "b": (0,)}


def test_groups_of_equal_scores_shrink_alike() -> None:
    """Where scores decide nothing, a global ranking is a uniform one."""
    kept = global_allocation({"a": torch.ones(8), "b": torch.ones(16), "c": torch.ones(4)}, ONE).at_ratio(0.5)
    assert lengths(kept) == {"a": 4, "b": 8, "c": 2}


@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.5, 0.8])
def test_global_ranking_removes_the_wanted_fraction(scores: Scores, ratio: float) -> None:
    """Without rounding to a grid, the fraction over all groups is the ratio to within one channel."""
    kept = global_ranking(scores(64, 128, 40), ratio, floor=0.1, align=1)
    assert sum(map(len, kept.values())) == pytest.approx((1 - ratio) * 232, abs=1)


@given(
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    ratio=st.floats(0.01, 0.85),
    align=st.sampled_from([1, 4, 8]),
    floor=st.sampled_from([0.01, 0.1]),
)
def test_floor_and_grid_hold(scores: Scores, widths: list[int], ratio: float, align: int, floor: float) -> None:
    """Every kept width is a multiple of the grid or the whole width, and no less than floor and grid."""
    made = scores(*widths)
    wide = [width for width in widths if width > align]
    possible = round(ratio * sum(wide)) <= sum(int((1 - floor) * width + 1e-9) for width in wide)
    for build in (uniform_allocation, global_allocation):
        allocation = build(made, Constraints(floor, align))
        if not possible:
            with pytest.raises(InputError, match="floors and limits"):
                allocation.at_ratio(ratio)
            continue
        for name, kept in allocation.at_ratio(ratio).items():
            width = len(made[name])
            assert len(kept) == width or len(kept) % align == 0
            assert min(align, width) <= len(kept) <= width
            assert len(kept) >= floor * width - 1e-9
            assert list(kept) == sorted(set(kept))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_more_is_never_wanted_at_a_higher_ratio(scores: Scores, widths: list[int], one: float, other: float) -> None:
    """No group gets wider as the ratio grows, and between nothing and all the ratio is met to within half a channel."""
    for build in (uniform_allocation, global_allocation):
        wanted = build(scores(*widths), Constraints(0, 1)).wanted
        wide, narrow = wanted(min(one, other)), wanted(max(one, other))
        assert all(narrow[name] <= wide[name] + 1e-9 for name in wide)
        assert sum(narrow.values()) == pytest.approx((1 - max(one, other)) * sum(widths), abs=0.5 + 1e-6)


def test_narrow_groups_do_not_count_in_the_fraction(scores: Scores) -> None:
    """A group no wider than the grid stays whole and takes no part in the ranking."""
    kept = global_ranking({"narrow": torch.zeros(8), **scores(64)}, 0.5, floor=0.1, align=8)
    assert lengths(kept) == {"narrow": 8, "g0": 32}


def test_groups_have_their_own_grids() -> None:
    """Four heads are no four channels: with a grid of 1 two of them stay, and the channels go in eights."""
    constraints = Constraints(0.1, 8, {"heads": GroupConstraint(0.1, 1)})
    kept = uniform_allocation({"heads": torch.arange(4.0), "conv": torch.arange(32.0)}, constraints).at_ratio(0.5)
    assert kept == {"heads": (2, 3), "conv": tuple(range(16, 32))}


def test_what_a_limit_protects_is_taken_elsewhere() -> None:
    """In a global ranking the limited group of low scores loses a quarter, the other the rest of the half."""
    scores = {"low": torch.arange(8.0), "high": torch.arange(8.0) + 10}
    kept = global_allocation(scores, ONE.limited({"low": 0.25})).at_ratio(0.5)
    assert kept == {"low": tuple(range(2, 8)), "high": (6, 7)}


def test_a_limit_holds_in_a_uniform_allocation() -> None:
    """The limited group loses a quarter instead of the half that the other one loses."""
    scores = {"limited": torch.arange(8.0), "free": torch.arange(8.0)}
    assert lengths(uniform_allocation(scores, ONE.limited({"limited": 0.25})).at_ratio(0.5)) == {
        "limited": 6,
        "free": 4,
    }


def test_a_floor_above_what_the_ratio_leaves_is_refused(scores: Scores) -> None:
    """The message has both numbers."""
    with pytest.raises(InputError, match=r"ratio 0\.9 asks to remove 58 of 64 channels, but .* allow only 32"):
        global_ranking(scores(64), 0.9, floor=0.5, align=8)


def test_a_layer_that_would_be_empty_is_named() -> None:
    """Without floors a global ranking may want every channel of the group with the lowest scores."""
    allocation = global_allocation({"strong": torch.full((8,), 2.0), "weak": torch.ones(8)}, Constraints(0, 1))
    assert lengths(allocation.at_ratio(0.4)) == {"strong": 8, "weak": 2}
    with pytest.raises(InputError, match="none of the 8 channels of 'weak'"):
        allocation.at_ratio(0.5)
    with pytest.raises(InputError, match="none of the 8 channels of 'a'"):
        uniform_allocation({"a": torch.ones(8)}, Constraints(0, 1)).at_ratio(0.95)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    """A weight that is NaN must not decide anything."""
    for allocate in (uniform_kept, global_ranking):
        with pytest.raises(StageError, match="'a' has scores that are not finite"):
            allocate({"a": torch.tensor([1.0, value, 2.0, 3.0])}, 0.5, floor=0.1, align=1)


def group(name: str, *slices: tuple[str, int, bool], width: int = 4) -> Group:
    """Return a group that owns one position per class of these dimensions."""
    positions = np.arange(width)[:, None]
    return Group(name, width, tuple(Member(tensor, dim, positions, side) for tensor, dim, side in slices))


def test_isomorphic_groups_are_ranked_among_themselves() -> None:
    """Each structure loses half, although all of the linear layer's scores are below those of the convolutions."""
    shapes = {f"{name}.weight": (4, 4, 1, 1) for name in "abcd"} | {"fc.weight": (4, 4), "out.weight": (2, 4)}
    groups = (
        group("a", ("a.weight", 0, False), ("b.weight", 1, True)),
        group("c", ("c.weight", 0, False), ("d.weight", 1, True)),
        group("fc", ("fc.weight", 0, False), ("out.weight", 1, True)),
    )
    scores = {
        "a": torch.tensor([10.0, 11.0, 12.0, 30.0]),
        "c": torch.tensor([20.0, 21.0, 22.0, 13.0]),
        "fc": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    }
    graph = ChannelGraph(groups, (), shapes, {})
    kept = isomorphic_allocation(scores, ONE, graph).at_ratio(0.5)
    assert kept == {"a": (3,), "c": (0, 1, 2), "fc": (2, 3)}
    assert global_allocation(scores, ONE).at_ratio(0.5) == {"a": (3,), "c": (0, 1, 2, 3), "fc": (3,)}


@pytest.mark.parametrize(
    ("slices", "same"),
    [
        ([("x.weight", 1, True), ("y.weight", 0, False)], True),  # the order of the members
        ([("y.weight", 0, False), ("z.weight", 1, True)], True),  # kernel and width
        ([("x.weight", 0, False), ("fc.weight", 1, True)], False),  # a linear layer reads instead
        ([("x.weight", 0, False), ("x.bias", 0, False), ("y.weight", 1, True)], False),  # a bias more
        ([("x.weight", 1, False), ("y.weight", 1, True)], False),  # another dimension
    ],
)
def test_what_makes_structures_differ(slices: list[tuple[str, int, bool]], same: bool) -> None:  # noqa: FBT001
    """Groups of one structure lose their lowest scores together: all of the first, where they are of one."""
    shapes = {"x.weight": (4, 4, 1, 1), "y.weight": (4, 4, 3, 3), "z.weight": (8, 4, 5, 5), "fc.weight": (4, 4)}
    groups = (group("first", ("x.weight", 0, False), ("y.weight", 1, True)), group("second", *slices))
    scores = {"first": torch.ones(4), "second": torch.full((4,), 2.0)}
    graph = ChannelGraph(groups, (), shapes | {"x.bias": (4,)}, {})
    kept = isomorphic_allocation(scores, Constraints(0.25, 1), graph).at_ratio(0.375)
    assert lengths(kept) == ({"first": 1, "second": 4} if same else {"first": 3, "second": 3})
