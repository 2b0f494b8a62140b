"""What is behind a difference of two scores: the score of each class, and the samples that lost most by themselves."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from pipeline.core.task import statistics_of
from pipeline.results.run import ClassScore, SampleChange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.task import Metric

#: Samples that are told.
_WORST = 5


def class_scores(
    metrics: Sequence[Metric],
    before: Sequence[Any],
    after: Sequence[Any],
    targets: Sequence[Any],
    classes: Sequence[str],
) -> tuple[str, tuple[ClassScore, ...]]:
    """Return the first metric that has a score for each class, by name, and these scores of predictions [N].

    An empty name where no metric has them. Classes that neither has a score of are left out.
    """
    for metric in metrics:
        by_class = getattr(metric, "by_class", None)
        one, other = (by_class(statistics_of(metric, each, targets)) if by_class else None for each in (before, after))
        if one is None or other is None or not len(one) == len(other) == len(classes):
            continue
        rows = [
            ClassScore(name=name, original=_known(first), result=_known(second))
            for name, first, second in zip(classes, one, other, strict=True)
        ]
        return metric.name, tuple(row for row in rows if (row.original, row.result) != (None, None))
    return "", ()


def worst_changes(
    metric: Metric, before: Sequence[Any], after: Sequence[Any], targets: Sequence[Any]
) -> tuple[SampleChange, ...]:
    """Return the samples whose own score got worse by most, the worst first; those without a score are left out."""
    own = ([_alone(metric, each) for each in statistics_of(metric, found, targets)] for found in (before, after))
    pairs = zip(*own, strict=True)
    sign = 1 if metric.higher_is_better else -1
    changes = [
        SampleChange(place=place, original=one, result=other)
        for place, (one, other) in enumerate(pairs)
        if one is not None and other is not None and sign * (other - one) < 0
    ]
    return tuple(sorted(changes, key=lambda each: (sign * (each.result - each.original), each.place))[:_WORST])


def _alone(metric: Metric, statistic: Any) -> float | None:  # noqa: ANN401 - whatever the metric keeps
    """Return what one sample scores by itself; None where that is no number, as a rank among one is."""
    if metric.is_mean:
        return _known(statistic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of means of nothing
        return _known(metric.compute([statistic]))


def _known(value: Any) -> float | None:  # noqa: ANN401 - a number of numpy's or Python's
    return float(value) if math.isfinite(value) else None
