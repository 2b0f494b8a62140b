"""Quantities with units, as a recipe writes them: `50%`, `3ms`, `1.5MB`, `0.5pt`, `0.25x`.

Each quantity has a pure function from text to value and one back, `parse_x(x_text(value)) == value`, and a type for
the fields of a recipe. Arithmetic on text is exact (fractions), so `3ms` is the float that is nearest to 0.003. A
ratio is written back as the bare number that it is.

| type       | written                          | value                                   |
|------------|----------------------------------|-----------------------------------------|
| `Ratio`    | `0.5`, `50%`                     | float, strictly between 0 and 1         |
| `Duration` | `250us`, `3ms`, `30s`, `2min`    | float, seconds                          |
| `Size`     | `800B`, `500kB`, `1.5MB`, `2MiB` | int, bytes                              |
| `Points`   | `0.5pt`                          | float, points of accuracy (0 to 100)    |
| `Factor`   | `0.25x`                          | `Factor`, a float: times the original's |
| `Drop`     | `0.5pt`, `2%`, `0.2dB`           | `ScoreDrop`: an amount and its unit     |
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

MEBIBYTE = 2**20
NANOSECONDS_PER_MILLISECOND = 1e6
#: Seconds in each unit, largest first.
_TIME_UNITS: Mapping[str, Fraction] = {
    "min": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 1_000_000),
}
#: The same for times to wait or to look back.
_AGE_UNITS: Mapping[str, Fraction] = {"d": Fraction(86400), "h": Fraction(3600), **_TIME_UNITS}
#: Bytes in each unit, largest first; kB is 1000 bytes and KiB 1024.
_SIZE_UNITS: Mapping[str, Fraction] = {
    "GiB": Fraction(1024**3),
    "GB": Fraction(1000**3),
    "MiB": Fraction(1024**2),
    "MB": Fraction(1000**2),
    "KiB": Fraction(1024),
    "kB": Fraction(1000),
    "B": Fraction(1),
}
_POINTS_UNITS: Mapping[str, Fraction] = {"pt": Fraction(1)}
_FACTOR_UNITS: Mapping[str, Fraction] = {"x": Fraction(1)}
_PERCENT: Mapping[str, Fraction] = {"%": Fraction(1, 100)}

_MAX_POINTS = 100
_MAX_TEXT = 64  # characters; more is no quantity that a person wrote

_RATIO_ALLOWED = "a ratio between 0 and 1, such as 0.5 or 50%"
_MARGIN_ALLOWED = "a share such as 3% or 0.03"
_DURATION_ALLOWED = "a positive time with its unit (us, ms, s, min), such as 3ms"
_AGE_ALLOWED = "a time with its unit (d, h, min, s, ms), such as 30d, 2h or 0s"
_SIZE_ALLOWED = "a positive number of bytes with its unit (B, kB, MB, GB, KiB, MiB, GiB), such as 1.5MB"
_POINTS_ALLOWED = "points of accuracy from 0pt to 100pt, such as 0.5pt"
_DROP_ALLOWED = "a loss of score with its unit, such as 0.5pt, 2% or 0.2dB"
_DROP_PATTERN = r"^([0-9]+(\.[0-9]+)?) ?(%|[A-Za-z][A-Za-z/]*)$"
_FACTOR_ALLOWED = "a positive factor ending in x, such as 0.25x"
_PART_ALLOWED = "below 1x, such as 0.35x, or a time with its unit (us, ms, s, min), such as 2.5ms"
_OR_FACTOR = f"{_FACTOR_ALLOWED}, or "


class Factor(float):
    """A positive multiple of what the original needs; a type of its own, since a limit may also be absolute."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the digits alone, as a float's are."""
        return float.__repr__(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read with `parse_factor`, write with `factor_text`."""
        writer = core_schema.plain_serializer_function_ser_schema(factor_text)
        return core_schema.no_info_plain_validator_function(parse_factor, serialization=writer)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe it by a pattern."""
        return _text_schema(_FACTOR_UNITS)


def pattern(units: Mapping[str, Fraction]) -> str:
    """Return the regular expression (Python's and JSON Schema's) of a number followed by one of `units`."""
    return rf"^[0-9]+(\.[0-9]+)? ?({'|'.join(units)})$"


def _amount(found: object, units: Mapping[str, Fraction], allowed: str) -> Fraction:
    """Return the exact amount that a text such as `3ms` names, in the base unit."""
    text = found if isinstance(found, str) and len(found) <= _MAX_TEXT else ""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z%]+)", text, flags=re.ASCII)
    if match is None or match[2] not in units:
        raise _refusal(found, allowed)
    return Fraction(match[1]) * units[match[2]]


def _refusal(found: object, allowed: str) -> ValueError:
    return ValueError(f"found {json.dumps(found, default=repr)[:_MAX_TEXT]}, allowed: {allowed}")


def _shortest(value: float, units: Mapping[str, Fraction], parse: Callable[[str], float]) -> str:
    """Return the shortest text that `parse` maps to exactly `value`; of equally short ones the largest unit."""
    exact = Fraction(repr(value))
    candidates = [f"{_decimal(exact / scale)}{unit}" for unit, scale in units.items()]
    faithful = [text for text in candidates if len(text) <= _MAX_TEXT and parse(text) == value]
    if not faithful:
        raise ValueError(f"{value!r} cannot be written exactly in {_MAX_TEXT} characters")
    return min(faithful, key=len)


def _decimal(value: Fraction) -> str:
    """Return `value` in decimal digits without exponent; rounded to MAX_TEXT digits where they do not end."""
    with localcontext(prec=_MAX_TEXT):
        text = f"{Decimal(value.numerator) / Decimal(value.denominator):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_ratio(found: object) -> float:
    """Return the ratio that `0.5` (a number) or `50%` (text) means.

    Raises:
        ValueError: it is neither, or not strictly between 0 and 1.
    """
    if isinstance(found, str):
        value = float(_amount(found, _PERCENT, _RATIO_ALLOWED))
    elif isinstance(found, float | int) and not isinstance(found, bool):
        value = float(found)
    else:
        raise _refusal(found, _RATIO_ALLOWED)
    if not 0 < value < 1:
        raise _refusal(found, _RATIO_ALLOWED)
    return value


def parse_margin(found: object) -> float:
    """Return the share that `3%`, `0.03` (text or number) means: at least 0, and possibly more than 1.

    Raises:
        ValueError: it is no such share.
    """
    if isinstance(found, float | int) and not isinstance(found, bool):
        found = repr(found)
    plain = isinstance(found, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", found, flags=re.ASCII)
    return float(
        _amount(f"{found}x", _FACTOR_UNITS, _MARGIN_ALLOWED) if plain else _amount(found, _PERCENT, _MARGIN_ALLOWED)
    )


def parse_duration(found: object, allowed: str = _DURATION_ALLOWED) -> float:
    """Return the seconds that a text such as `3ms` means.

    Raises:
        ValueError: no text, no unit, an unknown unit, or not positive. A bare number has no unit and is refused.
    """
    seconds = float(_amount(found, _TIME_UNITS, allowed))
    if seconds <= 0:
        raise _refusal(found, allowed)
    return seconds


def duration_text(seconds: float) -> str:
    """Return seconds as the shortest exact text, such as `3ms`."""
    return _shortest(seconds, _TIME_UNITS, parse_duration)


def parse_age(found: object) -> float:
    """Return the seconds of a time to wait or to look back, such as `90s`, `2h` or `30d`; zero is one.

    Raises:
        ValueError: it is none.
    """
    return float(_amount(found, _AGE_UNITS, _AGE_ALLOWED))


def age_text(seconds: float) -> str:
    """Return a time for a person, in the largest unit that makes it one or more: `90s` is `1.5min`."""
    exact = Fraction(repr(float(seconds)))
    unit, scale = next(((name, each) for name, each in _AGE_UNITS.items() if exact >= each), ("s", Fraction(1)))
    return f"{float(exact / scale):.3g}{unit}"


def parse_size(found: object, allowed: str = _SIZE_ALLOWED) -> int:
    """Return the bytes that a text such as `1.5MB` means.

    Raises:
        ValueError: no text, no unit, an unknown unit, not positive, or not an integer of bytes.
    """
    amount = _amount(found, _SIZE_UNITS, allowed)
    if amount <= 0 or amount.denominator != 1:
        raise _refusal(found, allowed)
    return amount.numerator


def size_text(size_bytes: int) -> str:
    """Return bytes as the shortest exact text, such as `1.5MB`."""
    return _shortest(size_bytes, _SIZE_UNITS, parse_size)


def parse_points(found: object) -> float:
    """Return the points of accuracy that a text such as `0.5pt` means; one point is 0.01 of accuracy.

    Raises:
        ValueError: no text, another unit, or more than 100 points.
    """
    points = float(_amount(found, _POINTS_UNITS, _POINTS_ALLOWED))
    if points > _MAX_POINTS:
        raise _refusal(found, _POINTS_ALLOWED)
    return points


def points_text(points: float) -> str:
    """Return points of accuracy as text, such as `0.5pt`."""
    return _shortest(points, _POINTS_UNITS, parse_points)


@dataclass(frozen=True)
class ScoreDrop:
    """How much of a score may be lost, and in which unit.

    `pt` are hundredths of a share from 0 to 1, `%` those of the original's score; else it is the metric's own unit.
    """

    amount: float
    unit: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.amount:g}{self.unit}"

    def loss(self, original: float, drop: float) -> float:
        """Return a loss of score, positive for the worse, in this unit."""
        if self.unit == "pt":
            return 100 * drop
        if self.unit == "%":
            return 100 * drop / abs(original) if original else math.copysign(math.inf, drop) if drop else 0.0
        return drop

    def holds(self, original: float, drop: float) -> bool:
        """Say whether a loss of score is no larger than this."""
        return self.loss(original, drop) <= self.amount

    def written(self, original: float, drop: float) -> str:
        """Write a loss of score in this unit."""
        return f"{self.loss(original, drop):.2f}{self.unit}"

    def fault(self, unit: str) -> str:
        """Say why a metric of that unit, empty for a share, cannot be judged by this; empty where it can."""
        if self.unit in {"%", unit or "pt"}:
            return ""
        return f"found {self}, allowed: {f'an amount in {unit}' if unit else 'points, such as 0.5pt'}, or a share in %"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read with `parse_score_drop`, write as text."""
        writer = core_schema.plain_serializer_function_ser_schema(str)
        return core_schema.no_info_plain_validator_function(parse_score_drop, serialization=writer)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe it by a pattern."""
        return {"type": "string", "pattern": _DROP_PATTERN}


def parse_score_drop(found: object) -> ScoreDrop:
    """Return the amount and the unit of a text such as `0.5pt`, `2%` or `0.2dB`.

    Raises:
        ValueError: no text, no unit, or more than 100 points or percent.
    """
    if isinstance(found, ScoreDrop):
        return found
    match = re.fullmatch(_DROP_PATTERN, found) if isinstance(found, str) and len(found) <= _MAX_TEXT else None
    if match is None:
        raise _refusal(found, _DROP_ALLOWED)
    amount, unit = float(match[1]), match[3]
    if unit in {"pt", "%"} and amount > _MAX_POINTS:
        raise _refusal(found, _DROP_ALLOWED)
    return ScoreDrop(amount, unit)


def parse_factor(found: object) -> Factor:
    """Return the factor that a text such as `0.25x` means.

    Raises:
        ValueError: no text, no `x` at its end, or not positive.
    """
    if isinstance(found, Factor):
        return found
    factor = Factor(_amount(found, _FACTOR_UNITS, _FACTOR_ALLOWED))
    if factor <= 0:
        raise _refusal(found, _FACTOR_ALLOWED)
    return factor


def factor_text(factor: float) -> str:
    """Return a factor as text, such as `0.25x`."""
    return _shortest(factor, _FACTOR_UNITS, parse_factor)


def parse_factor_or_duration(found: object) -> Factor | float:
    """Return a factor (`0.25x`) or seconds (`3ms`), told apart by their type; raises ValueError for anything else."""
    return parse_factor(found) if _looks_like_factor(found) else parse_duration(found, _OR_FACTOR + _DURATION_ALLOWED)


def factor_or_duration_text(value: Factor | float) -> str:
    """Return a factor or seconds as text."""
    return factor_text(value) if isinstance(value, Factor) else duration_text(value)


def parse_factor_or_size(found: object) -> Factor | int:
    """Return a factor (`0.25x`) or bytes (`1.5MB`), told apart by their type; raises ValueError for anything else."""
    return parse_factor(found) if _looks_like_factor(found) else parse_size(found, _OR_FACTOR + _SIZE_ALLOWED)


def factor_or_size_text(value: Factor | int) -> str:
    """Return a factor or bytes as text."""
    return factor_text(value) if isinstance(value, Factor) else size_text(value)


def parse_part_or_duration(found: object) -> Factor | float:
    """Return a factor below 1 (`0.35x`) or seconds (`2.5ms`); raises ValueError for anything else."""
    value = parse_factor_or_duration(found)
    if isinstance(value, Factor) and value >= 1:
        raise _refusal(found, _PART_ALLOWED)
    return value


def _looks_like_factor(found: object) -> bool:
    return isinstance(found, Factor) or (isinstance(found, str) and found.endswith("x"))


def _text_schema(*units: Mapping[str, Fraction]) -> dict[str, Any]:
    texts = [{"type": "string", "pattern": pattern(each)} for each in units]
    return texts[0] if len(texts) == 1 else {"anyOf": texts}


Ratio = Annotated[
    float,
    PlainValidator(parse_ratio),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, _text_schema(_PERCENT)]}
    ),
]
Duration = Annotated[
    float, PlainValidator(parse_duration), PlainSerializer(duration_text), WithJsonSchema(_text_schema(_TIME_UNITS))
]
Size = Annotated[int, PlainValidator(parse_size), PlainSerializer(size_text), WithJsonSchema(_text_schema(_SIZE_UNITS))]
Points = Annotated[
    float, PlainValidator(parse_points), PlainSerializer(points_text), WithJsonSchema(_text_schema(_POINTS_UNITS))
]
FactorOrDuration = Annotated[
    Factor | float,
    PlainValidator(parse_factor_or_duration),
    PlainSerializer(factor_or_duration_text),
    WithJsonSchema(_text_schema(_FACTOR_UNITS, _TIME_UNITS)),
]
PartOrDuration = Annotated[
    Factor | float,
    PlainValidator(parse_part_or_duration),
    PlainSerializer(factor_or_duration_text),
    WithJsonSchema(_text_schema(_FACTOR_UNITS, _TIME_UNITS)),
]
FactorOrSize = Annotated[
    Factor | int,
    PlainValidator(parse_factor_or_size),
    PlainSerializer(factor_or_size_text),
    WithJsonSchema(_text_schema(_FACTOR_UNITS, _SIZE_UNITS)),
]
