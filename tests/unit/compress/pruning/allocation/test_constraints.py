"""The widths that a group may keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress.pruning.allocation import Constraints, GroupConstraint
from pipeline.compress.pruning.allocation.constraints import aligned_width


@pytest.mark.parametrize(
    ("constraint", "width", "expected"),
    [
        (GroupConstraint(0.1, 8), 32, [8, 16, 24, 32]),
        (GroupConstraint(0.1, 8), 20, [8, 16, 20]),
        (GroupConstraint(0.1, 8), 8, [8]),
        (GroupConstraint(0.1, 8), 5, [5]),
        (GroupConstraint(0.5, 8), 32, [16, 24, 32]),
        (GroupConstraint(0.1, 8, max_ratio=0.25), 32, [24, 32]),
        (GroupConstraint(0.1, 8, max_ratio=0), 32, [32]),
        (GroupConstraint(0.9, 8, max_ratio=0.5), 40, [40]),
        (GroupConstraint(0.1, 1), 4, [1, 2, 3, 4]),
        (GroupConstraint(0, 1), 3, [1, 2, 3]),
        (GroupConstraint(0.1, 8), 200, [*range(24, 200, 8), 200]),
    ],
)
def test_allowed_widths(constraint: GroupConstraint, width: int, expected: list[int]) -> None:
    """Multiples of the grid that neither floor nor limit forbids, and the whole width."""
    assert constraint.widths(width) == expected


def test_fractions_of_widths_do_not_suffer_from_binary_numbers() -> None:
    """0.1 * 70 is a little more than 7 in floating point, and 1 - 0.9 a little less than 0.1."""
    assert GroupConstraint(0.1, 1).least(70) == 7
    assert GroupConstraint(0, 1, max_ratio=0.9).least(70) == 7
    assert GroupConstraint(0, 1, max_ratio=1 - 24 / 56).least(56) == 24


@pytest.mark.parametrize(
    ("width", "wanted", "expected"),
    [
        (64, 33, 32),
        (64, 36, 40),
        (64, 36 - 1e-12, 40),
        (64, 35.9, 32),
        (64, 1, 8),
        (20, 19, 20),
        (20, 17, 16),
        (8, 2, 8),
        (5, 1, 5),
        (200, 2, 24),
        (64, 64, 64),
    ],
)
def test_widths_are_rounded_to_the_nearest(width: int, wanted: float, expected: int) -> None:
    """In both directions, never to zero, never below the floor, and upwards when two are equally near."""
    assert aligned_width(GroupConstraint(0.1, 8).widths(width), wanted) == expected


@given(st.integers(1, 300), st.integers(1, 16), st.floats(0, 1), st.floats(0, 1), st.floats(0, 300))
def test_rounding_stays_within_the_constraints(
    width: int, align: int, floor: float, limit: float, wanted: float
) -> None:
    """Whatever is wanted, the result is on the grid or whole, and keeps what floor and limit protect."""
    constraint = GroupConstraint(floor, align, limit)
    kept = aligned_width(constraint.widths(width), wanted)
    assert kept == width or (kept % align == 0 and 0 < kept < width)
    assert kept >= max(floor, 1 - limit) * width - 1e-8


def test_a_group_has_its_own_constraints() -> None:
    """Those that are not named share the common ones."""
    constraints = Constraints(0.2, 8, {"heads": GroupConstraint(0.5, 1)})
    assert constraints.of("heads").widths(4) == [2, 3, 4]
    assert constraints.of("conv") == GroupConstraint(0.2, 8)


def test_limits_only_get_stricter() -> None:
    """Floor and grid stay; of two limits of a group the lower holds."""
    constraints = Constraints(0.2, 8, {"a": GroupConstraint(0.5, 4, max_ratio=0.3)}).limited({"a": 0.4, "b": 0.25})
    assert constraints.of("a") == GroupConstraint(0.5, 4, max_ratio=0.3)
    assert constraints.of("b") == GroupConstraint(0.2, 8, max_ratio=0.25)
    assert constraints.limited({"a": 0.1}).of("a").max_ratio == 0.1


def test_floors_of_later_steps_are_those_of_the_original() -> None:
    """A group of 64 with floor 0.25 keeps 16, also when it has only 32 left; a limit of 0.5 is then used up."""
    constraints = Constraints(0.25, 1, {"limited": GroupConstraint(0.0, 1, max_ratio=0.5)})
    later = constraints.relative_to({"a": 64, "limited": 64}, {"a": 32, "limited": 32})
    assert later.of("a").least(32) == 16
    assert later.of("limited").widths(32) == [32]
    assert constraints.relative_to({"limited": 64}, {"limited": 40}).of("limited").least(40) == 32
