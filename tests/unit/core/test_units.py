"""Quantities with units: what is read, what is refused, and that writing and reading again changes nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.core import units
from pipeline.core.units import Duration, Factor, FactorOrDuration, FactorOrSize, Points, Ratio, Size

if TYPE_CHECKING:
    from collections.abc import Callable

POSITIVE = st.floats(min_value=1e-12, max_value=1e12, allow_nan=False)


class Quantities(BaseModel):
    """One field of each type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ratio: Ratio = 0.5
    duration: Duration = 0.003
    size: Size = 1_500_000
    points: Points = 0.5
    factor: Factor = Factor(0.25)
    latency_limit: FactorOrDuration | None = None
    size_limit: FactorOrSize | None = None


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_ratio, 0.5, 0.5),
        (units.parse_ratio, "50%", 0.5),
        (units.parse_ratio, "33.3%", 0.333),
        (units.parse_duration, "250us", 0.00025),
        (units.parse_duration, "3ms", 0.003),
        (units.parse_duration, "0.1s", 0.1),
        (units.parse_duration, "2min", 120.0),
        (units.parse_duration, "30 s", 30.0),
        (units.parse_size, "800B", 800),
        (units.parse_size, "500kB", 500_000),
        (units.parse_size, "1.5MB", 1_500_000),
        (units.parse_size, "2MiB", 2 * 1024**2),
        (units.parse_points, "0.5pt", 0.5),
        (units.parse_points, "0pt", 0.0),
        (units.parse_factor, "0.25x", 0.25),
        (units.parse_factor_or_duration, "3ms", 0.003),
        (units.parse_factor_or_size, "1kB", 1000),
    ],
)
def test_reads(parse: Callable[[object], float], text: object, value: float) -> None:
    """A quantity with its unit is read exactly."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "found", "named"),
    [
        (units.parse_ratio, 0, "50%"),
        (units.parse_ratio, 1, "50%"),
        (units.parse_ratio, 1.5, "50%"),
        (units.parse_ratio, "100%", "50%"),
        (units.parse_ratio, "0.5", "50%"),
        (units.parse_ratio, True, "50%"),
        (units.parse_ratio, float("nan"), "50%"),
        (units.parse_ratio, None, "50%"),
        (units.parse_duration, 3, "us, ms, s, min"),
        (units.parse_duration, "3", "us, ms, s, min"),
        (units.parse_duration, "3 hours", "us, ms, s, min"),
        (units.parse_duration, "-3ms", "us, ms, s, min"),
        (units.parse_duration, "0ms", "us, ms, s, min"),
        (units.parse_duration, "1e3ms", "us, ms, s, min"),
        (units.parse_duration, "3MS", "us, ms, s, min"),
        (units.parse_duration, "\u0663ms", "us, ms, s, min"),
        (units.parse_duration, "9" * 5000 + "s", "us, ms, s, min"),
        (units.parse_duration, ["3ms"], "us, ms, s, min"),
        (units.parse_size, 500, "kB"),
        (units.parse_size, "0.3B", "positive number of bytes"),
        (units.parse_size, "0B", "positive"),
        (units.parse_size, "1 mb", "MB"),
        (units.parse_points, 0.5, "0.5pt"),
        (units.parse_points, "101pt", "100pt"),
        (units.parse_factor, 0.25, "0.25x"),
        (units.parse_factor, "0x", "positive"),
        (units.parse_factor_or_duration, 3, "0.25x, or a positive time"),
        (units.parse_factor_or_size, "3ms", "0.25x, or a positive number of bytes"),
    ],
)
def test_refuses(parse: Callable[[object], float], found: object, named: str) -> None:
    """What has no unit, another unit or no sense is refused with what is allowed."""
    with pytest.raises(ValueError, match=re.escape(named)) as caught:
        parse(found)
    assert str(caught.value).startswith("found ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (units.duration_text, 0.003, "3ms"),
        (units.duration_text, 0.00025, "250us"),
        (units.duration_text, 30.0, "30s"),
        (units.duration_text, 120.0, "2min"),
        (units.size_text, 1_500_000, "1.5MB"),
        (units.size_text, 2 * 1024**2, "2MiB"),
        (units.size_text, 800, "800B"),
        (units.points_text, 0.5, "0.5pt"),
        (units.factor_text, 0.25, "0.25x"),
        (units.factor_or_duration_text, Factor(0.25), "0.25x"),
        (units.factor_or_duration_text, 0.25, "0.25s"),
        (units.factor_or_size_text, Factor(2), "2x"),
        (units.factor_or_size_text, 2, "2B"),
    ],
)
def test_writes_the_shortest_text(write: Callable[[Any], str], value: float, text: str) -> None:
    """A quantity is written in the unit that a person would choose."""
    assert write(value) == text


@settings(deadline=None)
@given(POSITIVE)
def test_a_duration_survives_writing(seconds: float) -> None:
    """Seconds are the same float after writing and reading."""
    assert units.parse_duration(units.duration_text(seconds)) == seconds


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=2**63))
def test_a_size_survives_writing(size_bytes: int) -> None:
    """Bytes are the same number after writing and reading."""
    assert units.parse_size(units.size_text(size_bytes)) == size_bytes


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=100))
def test_points_survive_writing(points: float) -> None:
    """Points of accuracy are the same float after writing and reading, down to what 64 characters can tell."""
    assume(points == 0 or points > 1e-12)
    assert units.parse_points(units.points_text(points)) == points


@settings(deadline=None)
@given(POSITIVE)
def test_a_factor_survives_writing(factor: float) -> None:
    """A factor is the same float after writing and reading, and still a factor."""
    again = units.parse_factor_or_duration(units.factor_or_duration_text(Factor(factor)))
    assert again == factor
    assert isinstance(again, Factor)


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True))
def test_a_ratio_survives_writing(ratio: float) -> None:
    """A ratio is the same float after JSON and reading."""
    assert units.parse_ratio(json.loads(json.dumps(ratio))) == ratio


@settings(deadline=None)
@given(st.builds(Quantities, duration=POSITIVE.map(units.duration_text), latency_limit=POSITIVE.map(Factor)))
def test_a_model_survives_json(model: Quantities) -> None:
    """A model of quantities is the same after writing it as JSON and reading it, whatever stands in a union."""
    assert Quantities.model_validate_json(model.model_dump_json()) == model


def test_what_cannot_be_written_exactly_is_an_error() -> None:
    """A value that needs more digits than a quantity has is refused, not rounded."""
    with pytest.raises(ValueError, match="64 characters"):
        units.duration_text(5e-324)


def test_a_limit_knows_whether_it_is_relative() -> None:
    """A factor and an absolute limit of the same number stay apart."""
    relative = Quantities.model_validate({"latency_limit": "0.25x"}).latency_limit
    absolute = Quantities.model_validate({"latency_limit": "0.25s"}).latency_limit
    assert relative == absolute
    assert isinstance(relative, Factor)
    assert not isinstance(absolute, Factor)


def test_the_schema_of_a_field_is_a_pattern_that_fits() -> None:
    """JSON Schema describes a quantity by a pattern that takes what is written and refuses a bare number."""
    properties = Quantities.model_json_schema()["properties"]
    written = Quantities().model_dump(mode="json")
    for name in ("duration", "size", "points", "factor"):
        assert re.search(properties[name]["pattern"], written[name])
        assert not re.search(properties[name]["pattern"], "3")


def test_a_field_reports_all_that_is_wrong() -> None:
    """Each wrong field of a model is reported, with what was found."""
    with pytest.raises(ValidationError) as caught:
        Quantities.model_validate({"ratio": 2, "duration": 3, "size": "x", "points": 1, "factor": "1"})
    assert [error["loc"] for error in caught.value.errors()] == [(n,) for n in list(Quantities.model_fields)[:5]]
