"""How numbers are written."""

from __future__ import annotations

import math

import pytest

from pipeline.report import numbers
from pipeline.results.run import Interval


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1.00 k"), (3_370_000, "3.37 M"), (384_600_000, "385 M")],
)
def test_counts_have_three_digits_and_a_prefix(number: int, text: str) -> None:
    """Operations and parameters are written with three significant digits and a decimal prefix."""
    assert numbers.count(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (312, "312 B"), (999_600, "1.00 MB"), (13_480_000, "13.5 MB"), (12_000_000_000_000, "12000 GB")],
)
def test_sizes_are_decimal(number: int, text: str) -> None:
    """Bytes use decimal units, and rounding never leaves 1000 of a smaller one."""
    assert numbers.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.842, "0.842 s"),
        (12.34, "12.3 s"),
        (59.7, "1 min 00 s"),
        (258, "4 min 18 s"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    """Durations use the units that a person would use."""
    assert numbers.duration(seconds) == text


def test_missing_numbers_are_dashes() -> None:
    """What was not measured is a dash in every format."""
    formats = (numbers.percent, numbers.points, numbers.milliseconds, numbers.ratio, numbers.count, numbers.size)
    assert {write(None) for write in formats} == {numbers.DASH}


@pytest.mark.parametrize(
    ("fraction", "text"), [(-0.0046, "\N{MINUS SIGN}0.46"), (0.0183, "+1.83"), (0.0, "0.00"), (-0.00001, "0.00")]
)
def test_points_are_signed(fraction: float, text: str) -> None:
    """Differences carry a sign, and what rounds to zero carries none."""
    assert numbers.points(fraction) == text


def test_bounds_have_the_decimals_of_their_value() -> None:
    """An interval is written as precisely as the number that it belongs to."""
    assert numbers.bounds(Interval(value=11.22, low=11.1078, high=11.3322)) == "[11.1, 11.3]"
    assert numbers.bounds(Interval(value=0.412, low=0.4, high=0.4242)) == "[0.400, 0.424]"
    assert numbers.bounds(None) == ""


@pytest.mark.parametrize(("factor", "text"), [(3.408, "3.41x"), (12.34, "12.3x"), (0.991, "0.99x"), (0.0, "0x")])
def test_ratios_have_at_most_two_decimals(factor: float, text: str) -> None:
    """A factor is not written more precisely than it can be measured."""
    assert numbers.ratio(factor) == text


def test_wilson_interval_agrees_with_the_published_example() -> None:
    """81 of 263 gives 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 17, 1998, table I)."""
    low, high = numbers.wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_wilson_interval_stays_a_probability() -> None:
    """With nothing wrong the interval ends at one and still begins below it."""
    low, high = numbers.wilson(1.0, 20)
    assert math.isclose(high, 1.0)
    assert 0.8 < low < 0.9
