"""Schedules of iterative pruning."""

from __future__ import annotations

import doctest
from math import prod
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress.pruning.allocation import remaining_schedule, schedule, step_ratios
from pipeline.core.errors import InputError

SHAPES: tuple[Literal["geometric", "linear"], ...] = ("geometric", "linear")


def test_three_steps_to_an_eighth() -> None:
    """Each step halves, or each removes 7/24 of the original."""
    assert remaining_schedule(0.125, 3, "geometric") == pytest.approx((1 / 2, 1 / 4, 1 / 8))
    assert remaining_schedule(0.125, 3, "linear") == pytest.approx((17 / 24, 10 / 24, 3 / 24))


def test_ratios_of_each_step() -> None:
    """Half and half again; linear steps take more and more of what they find."""
    assert step_ratios(remaining_schedule(0.25, 2, "geometric")) == pytest.approx((0.5, 0.5))
    assert step_ratios(remaining_schedule(0.25, 3, "linear")) == pytest.approx((1 / 4, 1 / 3, 1 / 2))


@given(st.floats(0.01, 0.99), st.integers(1, 30), st.sampled_from(SHAPES))
def test_the_total_is_met_after_the_last_step(total: float, steps: int, shape: Literal["geometric", "linear"]) -> None:
    """What is left falls with every step, ends at the total exactly, and is the product of what the steps leave."""
    left = remaining_schedule(total, steps, shape)
    assert len(left) == steps
    assert left[-1] == total
    assert list(left) == sorted(left, reverse=True)
    assert prod(1 - ratio for ratio in step_ratios(left)) == pytest.approx(total)


@pytest.mark.parametrize(("total", "steps"), [(0.5, 0), (0.0, 2), (1.0, 2)])
def test_what_is_no_schedule(total: float, steps: int) -> None:
    """No steps, or nothing to do, or nothing left."""
    with pytest.raises(InputError, match=rf"Found {steps} steps that leave {total}"):
        remaining_schedule(total, steps, "linear")


def test_the_examples_of_the_documentation() -> None:
    """What the docstrings print is what comes out."""
    assert doctest.testmod(schedule) == (0, 3)
