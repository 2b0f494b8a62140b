"""Scores from predictions, and the difference of two networks on the same samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.core.task import facts_of, score_of, statistics_of
from pipeline.results.run import Interval, Score, TaskFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.stage import Progress
    from pipeline.core.task import Metric, Task

Z95 = 1.959963984540054
#: Resamples of a bootstrap, and of one whose metric is computed anew for each from what it keeps of every sample.
_RESAMPLES, _SET_RESAMPLES = 2000, 500


def task_facts(task: Task) -> TaskFacts:
    """Return what has to be known of a task to write its scores."""
    sample = "image" if task.images is not None else "sample"
    return TaskFacts(kind=task.kind, metrics=tuple(map(facts_of, task.metrics)), sample=sample)


def score_predictions(metrics: Sequence[Metric], predictions: Sequence[Any], targets: Sequence[Any]) -> Score:
    """Return every metric of predictions for N samples. Raises InputError when one is no number."""
    found = {metric.name: score_of(metric, statistics_of(metric, predictions, targets)) for metric in metrics}
    return Score.model_validate({"images": len(targets), **found})


def paired_difference(
    metric: Metric,
    before: Sequence[Any],
    after: Sequence[Any],
    targets: Sequence[Any],
    progress: Progress | None = None,
) -> Interval:
    """Return score(after) - score(before) of predictions for the same samples, with a 95 % interval.

    The interval is that of paired proportions where a sample is right or wrong, else a bootstrap over samples that are
    drawn for both alike (percentile interval), which also holds for metrics that are no mean, such as mAP.
    """
    first, second = (statistics_of(metric, found, targets) for found in (before, after))
    if metric.is_mean and {*first, *second} <= {0.0, 1.0}:
        return proportions_difference(np.asarray(first) == 1, np.asarray(second) == 1)
    return bootstrap_difference(metric, first, second, progress)


def proportions_difference(right_before: Any, right_after: Any) -> Interval:  # noqa: ANN401 - arrays of bool [N]
    """Return the difference of two shares of the same samples with a 95 % interval, from what is right [N] of each.

    Source: the adjusted Wald interval for paired proportions of Bonett and Price 2012, which holds its level when few
    predictions change. `value` is the plain difference.
    """
    gained, lost = int((~right_before & right_after).sum()), int((right_before & ~right_after).sum())
    total = len(right_before)
    p_gained, p_lost = (gained + 1) / (total + 2), (lost + 1) / (total + 2)
    centre = p_gained - p_lost
    half = Z95 * math.sqrt((p_gained + p_lost - centre**2) / (total + 2))
    return Interval(value=(gained - lost) / total, low=max(-1.0, centre - half), high=min(1.0, centre + half))


def bootstrap_difference(
    metric: Metric, before: Sequence[Any], after: Sequence[Any], progress: Progress | None = None
) -> Interval:
    """Return score(after) - score(before) from the statistics of the same samples, with a paired bootstrap's 95 %.

    Source: Efron and Tibshirani 1993, the percentile interval; the same samples are drawn for both.

    Raises:
        InputError: no draw of the samples has a score.
    """
    value = score_of(metric, after) - score_of(metric, before)
    if len(before) < 2:  # noqa: PLR2004 - every draw would be the same
        return _of_one_sample(metric, value)
    generator, total = np.random.default_rng(0), len(before)
    if metric.is_mean:
        change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
        found = np.array([change[generator.integers(0, total, total)].mean() for _ in range(_RESAMPLES)])
    else:
        found, progress = np.empty(_SET_RESAMPLES), progress or SilentProgress()
        for place in range(_SET_RESAMPLES):
            draw = generator.integers(0, total, total)
            scores = (metric.compute([kept[i] for i in draw]) for kept in (after, before))
            found[place] = next(scores) - next(scores)
            progress.update(place + 1, _SET_RESAMPLES, f"resampling {metric.name} for its interval")
    known = found[np.isfinite(found)]
    if not known.size:
        raise InputError(
            f"the metric {metric.name} is no finite number for any of {len(found)} draws of {total} samples, where "
            "some come twice: an interval needs one that is"
        )
    low, high = np.quantile(known, (0.025, 0.975))
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def _of_one_sample(metric: Metric, value: float) -> Interval:
    """Return a 95 % interval around one difference, never further than the metric's range; it always has 0 in it.

    Source: Edelman 1990, value +- (2 / 0.05 - 1) |value|, for any distribution that has one peak.
    """
    lowest, highest = map(float, metric.range)
    half, most = (2 / 0.05 - 1) * abs(value), max(highest - lowest, abs(value))
    return Interval(value=value, low=max(-most, value - half), high=min(most, value + half))
