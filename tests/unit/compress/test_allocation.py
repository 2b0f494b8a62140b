"""How many channels each group keeps, and which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.compress.allocation import aligned, global_ranking, uniform
from pipeline.core.errors import InputError, StageError


def scores(*widths: int, seed: int = 0) -> dict[str, Tensor]:
    """Return random scores of groups of these widths, whose scales differ a hundredfold."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"g{index}": torch.rand(width, generator=generator, dtype=torch.float64) * 100**index
        for index, width in enumerate(widths)
    }


def test_uniform_keeps_the_best_of_each_group() -> None:
    """Half of each group stays: the half with the highest scores, in ascending order of index."""
    kept = uniform({"a": torch.tensor([3.0, 1.0, 4.0, 2.0]), "b": torch.tensor([1.0, 5.0])}, 0.5, align=1)
    assert kept == {"a": (0, 2), "b": (1,)}


@pytest.mark.parametrize("allocate", [uniform, global_ranking])
def test_equal_scores_keep_the_first(allocate: object) -> None:
    """Ties are broken by index."""
    assert callable(allocate)
    assert allocate({"a": torch.ones(8)}, 0.5, align=1) == {"a": (0, 1, 2, 3)}


def test_global_ranking_compares_groups_by_their_mean() -> None:
    """A group whose scores are all alike loses nothing to one that has clear losers, whatever their scales."""
    even = torch.full((8,), 1e-3)
    uneven = torch.tensor([1e3] * 4 + [1.0] * 4)
    assert global_ranking({"even": even, "uneven": uneven}, 0.25, align=1) == {
        "even": tuple(range(8)),
        "uneven": (0, 1, 2, 3),
    }


@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.5, 0.8])
def test_global_ranking_removes_the_wanted_fraction(ratio: float) -> None:
    """Without rounding to a grid, the fraction over all groups is the ratio to within one channel."""
    kept = global_ranking(scores(64, 128, 40), ratio, align=1)
    assert sum(map(len, kept.values())) == pytest.approx((1 - ratio) * 232, abs=1)


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=5),
    st.floats(0.01, 0.85),
    st.sampled_from([1, 4, 8]),
    st.sampled_from([0.01, 0.1]),
)
def test_floor_and_grid_hold(widths: list[int], ratio: float, align: int, floor: float) -> None:
    """Every kept width is a multiple of the grid or the whole width, and no less than floor and grid."""
    for allocate in (uniform, global_ranking):
        for name, kept in allocate(scores(*widths), ratio, floor=floor, align=align).items():
            width = widths[int(name[1:])]
            assert len(kept) == width or len(kept) % align == 0
            assert min(align, width) <= len(kept) <= width
            assert len(kept) >= floor * width
            assert list(kept) == sorted(set(kept))


@pytest.mark.parametrize(
    ("width", "wanted", "expected"),
    [
        (64, 33, 32),
        (64, 36, 40),
        (64, 35.9, 32),
        (64, 1, 8),
        (20, 19, 20),
        (20, 17, 16),
        (8, 2, 8),
        (5, 1, 5),
        (200, 2, 24),
    ],
)
def test_widths_are_rounded_to_the_nearest(width: int, wanted: float, expected: int) -> None:
    """In both directions, never to zero, never below the floor, and upwards when two are equally near."""
    assert aligned(width, wanted, floor=0.1, align=8) == expected


def test_narrow_groups_do_not_count_in_the_fraction() -> None:
    """A group no wider than the grid stays whole and takes no part in the ranking."""
    kept = global_ranking({"narrow": torch.zeros(8), **scores(64)}, 0.5, align=8)
    assert (len(kept["narrow"]), len(kept["g0"])) == (8, 32)


def test_a_floor_above_what_the_ratio_leaves_is_refused() -> None:
    """The message names both."""
    with pytest.raises(InputError, match=r"ratio 0\.9 asks to remove 58 of 64 channels, but with floor 0\.5 only 32"):
        global_ranking(scores(64), 0.9, floor=0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    """A weight that is NaN must not decide anything."""
    for allocate in (uniform, global_ranking):
        with pytest.raises(StageError, match="'a' has scores that are not finite"):
            allocate({"a": torch.tensor([1.0, value, 2.0, 3.0])}, 0.5, align=1)
