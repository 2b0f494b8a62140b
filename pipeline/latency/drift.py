"""When did a series of ratios change its level, and has it crept up? A pure function over dated points.

Each point is the ratio candidate / frozen reference of one day, both files measured side by side, so that the noise of
the machine is in neither. Within windows of 30 points the series is split where a t-test separates its two parts best,
and each part again; the splits of all windows are then tested once more against their neighbours, and the weakest is
taken out until every one that is left has p < .001 and a step of at least 1 %.

Source: Matteson & James, "A Nonparametric Approach for Multiple Change Point Analysis of Multivariate Data" (2014), the
idea of e-divisive; Fleming et al., "Hunter: Using Change Point Detection to Hunt for Performance Regressions" (2023),
now Apache Otava, for the t-test, the windows, and weak splits at ten times the p-value that are pruned afterwards.

Differs: the split is where the t statistic is largest, not the energy statistic. A single spike is no change point: a
point far from those around it, which neither of its neighbours follows, is replaced by their median beforehand.

Limits: a step is found from its second point on, a creep of half a percent a week after about two months. The p-value
of a best split is optimistic; what keeps false alarms rare is the magnitude as well: on steady series of 52 points at
most 2 in 100 have a slowdown where a point's standard deviation is 0.5 %, and more where it is larger.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipeline.results.gate import DriftStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_WINDOW = 30
_P_VALUE = 1e-3
_WEAK = 10.0
_LEAST_POINTS = 2
_LEAST_SIZE = 0.01
#: A spike is further than so many standard deviations from the median of the points within REACH of it.
SPIKE, REACH = 4.0, 3
#: The least standard deviation of a ratio, so that a series of equal points has no spikes of a rounding error.
_LEAST_DEVIATION = 1e-4
#: The 3/4 quantile of the standard normal: median absolute deviation over standard deviation.
_MAD = 0.6745
ACCURACY, TERMS, TINY = 1e-14, 500, 1e-300


def find_steps(series: Sequence[tuple[str, float]]) -> tuple[DriftStep, ...]:
    """Return the steps of a series of (date, ratio), oldest first; fewer than four points have none.

    Example:
        >>> days = [(f"2026-01-{day:02}", 1.0 + 0.001 * (day % 3) + (0.03 if day > 9 else 0)) for day in range(1, 20)]
        >>> [(step.created, round(step.size, 3)) for step in find_steps(days)]
        [('2026-01-10', 0.03)]
    """
    logs = _without_spikes(np.log([ratio for _, ratio in series]))
    found: set[int] = set()
    for start in range(0, max(1, len(logs) - _WINDOW // 2), _WINDOW // 2):
        found |= {start + split for split in _splits(logs[start : start + _WINDOW])}
    kept = _pruned(logs, sorted(found))
    return tuple(
        DriftStep(index=at, created=series[at][0], size=math.expm1(step), p_value=p)
        for at, (step, p) in zip(kept, _tested(logs, kept), strict=True)
    )


def lasting(series: Sequence[tuple[str, float]], steps: Sequence[DriftStep]) -> tuple[DriftStep, ...]:
    """Return the slowdowns that were not taken back: the last level is still 1 % above the one before the step."""
    means = levels(series, steps)
    return tuple(
        step for step, before in zip(steps, means, strict=False) if step.size > 0 and means[-1] - before >= _LEAST_LOG
    )


def levels(series: Sequence[tuple[str, float]], steps: Sequence[DriftStep]) -> list[float]:
    """Return the mean log-ratio, spikes replaced, of each part of the series between two steps."""
    logs = _without_spikes(np.log([ratio for _, ratio in series]))
    return [float(part.mean()) for part in np.split(logs, [step.index for step in steps])]


def _without_spikes(values: Values) -> Values:
    """Return the series with each point that stands alone replaced by the median of those around it."""
    if len(values) < 2 * _LEAST_POINTS:
        return values
    deviation = max(float(np.median(np.abs(np.diff(values)))) / _MAD / math.sqrt(2), _LEAST_DEVIATION)
    cleaned = values.copy()
    for at, value in enumerate(values):
        around = np.delete(values[max(0, at - REACH) : at + REACH + 1], min(at, REACH))
        middle = float(np.median(around))
        distance = value - middle
        followed = any(
            (values[beside] - middle) / distance > 1 / 2
            for beside in (at - 1, at + 1)
            if abs(distance) > SPIKE * deviation and 0 <= beside < len(values)
        )
        if abs(distance) > SPIKE * deviation and not followed:
            cleaned[at] = middle
    return cleaned


def _t_test(first: Values, second: Values) -> float:
    """Return the two-sided p-value of Student's t-test, with one variance for both, that the two means are equal."""
    n, m = len(first), len(second)
    freedom = n + m - 2
    within = float(((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum())
    error = math.sqrt(within / freedom * (1 / n + 1 / m))
    apart = abs(float(second.mean() - first.mean()))
    if error == 0:
        return 0.0 if apart > 0 else 1.0
    return 2 * student_survival(apart / error, freedom)


def student_survival(t: float, freedom: float) -> float:
    """Return the probability that Student's t with so many degrees of freedom exceeds `t`.

    Source: Abramowitz & Stegun 26.7.1 and 26.5.27, by the regularised incomplete beta function.
    """
    tail = _incomplete_beta(freedom / 2, 1 / 2, freedom / (freedom + t * t)) / 2
    return tail if t >= 0 else 1 - tail


_LEAST_LOG = math.log1p(_LEAST_SIZE)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function; its continued fraction converges fast below the mean."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / a / _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d1/(1 + d2/(1 + ...)) of Abramowitz & Stegun 26.5.8, by Lentz's method."""
    value, upper, lower = 1.0, 1.0, 0.0
    for term in range(1, TERMS):
        m = term // 2
        if term % 2:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / ((1 + numerator * lower) or TINY)
        upper = (1 + numerator / upper) or TINY
        value *= upper * lower
        if abs(upper * lower - 1) < ACCURACY:
            break
    return value


def _splits(values: Values) -> list[int]:
    """Return where a window splits, weakly, and where its parts do."""
    places = range(_LEAST_POINTS, len(values) - _LEAST_POINTS + 1)
    if not places:
        return []
    p, at = min((_t_test(values[:place], values[place:]), place) for place in places)
    if p >= _WEAK * _P_VALUE:
        return []
    return [*_splits(values[:at]), at, *(at + each for each in _splits(values[at:]))]


def _tested(values: Values, splits: Sequence[int]) -> list[tuple[float, float]]:
    """Return step and p-value of each split, between the parts beside it."""
    parts = np.split(values, list(splits))
    return [(float(after.mean() - before.mean()), _t_test(before, after)) for before, after in pairwise(parts)]


def _pruned(values: Values, splits: list[int]) -> list[int]:
    """Take out the weakest split until all are significant and large, and have points enough beside them."""
    while splits:
        tested = _tested(values, splits)
        edges = [0, *splits, len(values)]
        narrow = [min(b - a, c - b) < _LEAST_POINTS for a, b, c in zip(edges, edges[1:], edges[2:], strict=False)]
        weak = [
            (p if abs(step) >= _LEAST_LOG and not thin else 1 + p, place)
            for place, ((step, p), thin) in enumerate(zip(tested, narrow, strict=True))
        ]
        worst, place = max(weak)
        if worst < _P_VALUE:
            break
        splits = splits[:place] + splits[place + 1 :]
    return splits
