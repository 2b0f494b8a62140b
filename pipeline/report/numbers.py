"""How numbers are written in every report: three significant digits, human units, a dash for what was not measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.results.scores import Z95

if TYPE_CHECKING:
    from pipeline.core.task import MetricFacts
    from pipeline.results.run import Interval

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"


def percent(fraction: float | None) -> str:
    """Write a fraction in percent with two decimals: 0.8841 is "88.41 %"."""
    return DASH if fraction is None else f"{100 * fraction:.2f} %"


def points(fraction: float | None, decimals: int = 2) -> str:
    """Write a difference of fractions in signed percentage points without the unit: -0.0046 is "-0.46"."""
    return DASH if fraction is None else signed(100 * fraction, decimals)


def metric_name(name: str) -> str:
    """Write the name of a metric as a heading: "balanced_accuracy" is "Balanced accuracy", names with capitals stay."""
    plain = name.replace("_", " ")
    return plain if plain != plain.lower() else plain[:1].upper() + plain[1:]


def score(value: float | None, metric: MetricFacts) -> str:
    """Write a metric's value: a share in percent, "88.41 %", else with four significant digits and its unit."""
    if value is None or metric.is_share:
        return percent(value)
    return f"{value:.4g} {metric.unit}".replace("-", MINUS)


def score_change(change: float | None, metric: MetricFacts) -> str:
    """Write a difference of a metric's values, signed: that of shares in points without the unit, else as it is."""
    if change is None or metric.is_share:
        return points(change)
    return signed(change, _change_decimals(change))


def score_change_unit(metric: MetricFacts) -> str:
    """Return the unit of differences: "points" for shares."""
    return "points" if metric.is_share else metric.unit


def score_interval(interval: Interval, metric: MetricFacts) -> str:
    """Write the bounds of a difference of a metric's values: of shares in points, "[-1.4, +0.5]"."""
    if metric.is_share:
        return points_interval(interval)
    decimals = _change_decimals(max(abs(interval.low), abs(interval.high)))
    return f"[{signed(interval.low, decimals)}, {signed(interval.high, decimals)}]"


def _change_decimals(change: float) -> int:
    return max(2, decimal_places(change) - 1)


def signed(number: float, decimals: int) -> str:
    """Write a number with its sign, a true minus, and no sign when it rounds to zero."""
    text = f"{abs(number):.{decimals}f}"
    if float(text) == 0:
        return text
    return f"{'+' if number > 0 else MINUS}{text}"


def points_interval(interval: Interval) -> str:
    """Write the bounds of a difference of fractions in points, one decimal: "[-1.4, +0.5]"."""
    return f"[{points(interval.low, 1)}, {points(interval.high, 1)}]"


def milliseconds(value: float | None) -> str:
    """Write milliseconds with three significant digits and the unit."""
    return DASH if value is None else f"{significant(value)} ms"


def ratio(value: float | None) -> str:
    """Write a factor with three significant digits and at most two decimals: "3.41x"."""
    return DASH if value is None else f"{value:.{min(2, decimal_places(value))}f}x"


def bounds(interval: Interval | None) -> str:
    """Write the bounds of an interval with as many decimals as three significant digits of its value have."""
    if interval is None:
        return ""
    decimals = decimal_places(interval.value)
    return f"[{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]"


def level(interval: Interval) -> str:
    """Write the confidence level: "95 %"."""
    return f"{100 * interval.level:g} %"


def count(number: int | None) -> str:
    """Write a count of operations or parameters with k, M, G or T: 385_000_000 is "385 M"."""
    return DASH if number is None else _with_unit(number, ("", "k", "M", "G", "T"))


def size(number: int | None) -> str:
    """Write bytes in decimal units: 13_400_000 is "13.4 MB"."""
    return DASH if number is None else _with_unit(number, ("B", "kB", "MB", "GB"))


def duration(seconds: float) -> str:
    """Write how long something took: "0.84 s", "12.3 s", "4 min 12 s" or "1 h 05 min"."""
    if seconds < 1e-3:  # noqa: PLR2004 - below a millisecond nobody counts
        return "0 s"
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds in a minute
        return f"{significant(seconds)} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004 - minutes in an hour
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def plural(number: int, noun: str) -> str:
    """Write an integer with thousands separators and its noun: "1 thread", "1,312 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def significant(number: float) -> str:
    """Write a number with three significant digits and no exponent."""
    return f"{number:.{decimal_places(number)}f}"


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of n samples that is right, as a binomial proportion.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    p, z = share, Z95
    spread = 1 + z * z / n
    middle = (p + z * z / (2 * n)) / spread
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / spread
    return max(0.0, middle - half), min(1.0, middle + half)


def decimal_places(number: float) -> int:
    """Return how many decimals three significant digits of `number` need."""
    rounded = abs(float(f"{number:.2e}"))
    return 0 if rounded == 0 else max(0, 2 - math.floor(math.log10(rounded)))


def _with_unit(number: float, units: tuple[str, ...]) -> str:
    """Divide by 1000 until three significant digits fit before the decimal point."""
    if number < 1000:  # noqa: PLR2004 - whole below the first prefix
        return f"{number:.0f} {units[0]}".strip()
    power = 0
    while float(f"{number:.2e}") >= 1000 and power + 1 < len(units):  # noqa: PLR2004 - the step of the prefixes
        number /= 1000
        power += 1
    return f"{significant(number)} {units[power]}"
