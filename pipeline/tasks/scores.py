"""Metrics: a statistic of each sample, and one number of them all, so that any set of samples can be scored again.

`Score` is what every kit's metrics are, apart from the average precision of boxes. A metric has `name`, `unit` (empty:
a share from 0 to 1, which is shown in percent), `range`, `higher_is_better`, `is_mean` (the statistic is a float, and
the score the mean of these), `statistic(prediction, target)` and `compute(statistics)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float64]


class Score:
    """A metric of two functions: the statistic of one sample, and the score of statistics [N, ...].

    Without the second the score is the mean. `of_classes` gives a score for each class, NaN where there is none.
    """

    def __init__(
        self,
        name: str,
        of_sample: Callable[[Any, Any], Any],
        of_all: Callable[[Array], float] | None = None,
        *,
        unit: str = "",
        bounds: tuple[float, float] = (0.0, 1.0),
        higher_is_better: bool = True,
        of_classes: Callable[[Array], Floats] | None = None,
    ) -> None:
        self.name, self.unit, self.range = name, unit, bounds
        self.higher_is_better = higher_is_better
        self.is_mean = of_all is None
        self._of_sample, self._of_all, self._of_classes = of_sample, of_all, of_classes

    def statistic(self, prediction: Any, target: Any) -> Any:
        """Return what one sample adds to the score: a float where the score is a mean, an array otherwise."""
        found = self._of_sample(prediction, target)
        return float(found) if self.is_mean else np.asarray(found)

    def compute(self, statistics: Sequence[Any]) -> float:
        """Return the score of these samples; NaN where it is not defined, as for none."""
        if len(statistics) == 0:
            return float("nan")
        return float(np.mean(statistics) if self._of_all is None else self._of_all(np.asarray(statistics)))

    def by_class(self, statistics: Sequence[Any]) -> Floats | None:
        """Return the score of each class [K], NaN for those that do not occur; None where classes have none."""
        return None if self._of_classes is None else self._of_classes(np.asarray(statistics))


def mean_known(values: Floats) -> float:
    """Return the mean of what is not NaN; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def share(part: Array, whole: Array) -> Floats:
    """Return part / whole, NaN where the whole is zero."""
    filled = np.where(whole > 0, whole, 1)
    return np.where(whole > 0, part / filled, np.nan)


def class_counts(predicted: Array, true: Array, classes: int) -> NDArray[np.int64]:
    """Return counts [3, K] over places: the class was right, was predicted, was true. Other values count nowhere."""
    right = true[predicted == true]
    rows = (np.bincount(each[(each >= 0) & (each < classes)].ravel(), minlength=classes) for each in (predicted, true))
    return np.stack([np.bincount(right[(right >= 0) & (right < classes)].ravel(), minlength=classes), *rows])


def counts_of_pairs(pairs_N2: Array, classes: int) -> NDArray[np.int64]:
    """Return the counts [3, K] of one predicted and one true class for each sample."""
    return class_counts(pairs_N2[:, 0], pairs_N2[:, 1], classes)


def share_right(counts_3K: Array) -> float:
    """Return the share of true places that were predicted right."""
    return float(share(counts_3K[0].sum(), counts_3K[2].sum()))


def class_recalls(counts_3K: Array) -> Floats:
    """Return the recall of each class [K]; NaN for those that do not occur."""
    return share(counts_3K[0], counts_3K[2])


def class_f1(counts_3K: Array) -> Floats:
    """Return F1 of each class [K], 2 right / (predicted + true); NaN where there is neither."""
    return share(2 * counts_3K[0], counts_3K[1] + counts_3K[2])


def class_iou(counts_3K: Array) -> Floats:
    """Return intersection over union of each class [K]; NaN for those neither predicted nor true."""
    return share(counts_3K[0], counts_3K[1] + counts_3K[2] - counts_3K[0])


def f1_of_sums(counts_3: Array) -> float:
    """Return F1 of sums of right, predicted and true; 1 where there is nothing to find and nothing was found."""
    right, predicted, true = (float(each) for each in counts_3)
    return 2 * right / (predicted + true) if predicted + true else 1.0


def ranked_precision(scores_N: Array, truths_N: Array) -> float:
    """Return the average precision of a ranking, sum of (R_n - R_n-1) P_n over distinct scores; NaN without truths.

    Equal scores are one step, so their order does not matter (as in scikit-learn's `average_precision_score`).
    """
    truths = np.asarray(truths_N, dtype=bool)
    if not truths.any():
        return float("nan")
    order = np.argsort(-np.asarray(scores_N), kind="stable")
    scores, right = np.asarray(scores_N)[order], np.cumsum(truths[order])
    last_of_equals = np.append(scores[1:] != scores[:-1], True)
    right, taken = right[last_of_equals], np.flatnonzero(last_of_equals) + 1
    recall = right / right[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * right / taken))


def ranks(values: Array) -> Floats:
    """Return ranks from 1, equal values with the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    means = last - (count - 1) / 2
    return np.asarray(means[place.ravel()], dtype=np.float64)


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation of two arrays [N]; NaN where one is constant or N < 2."""
    pair = [ranks(each) - (len(each) + 1) / 2 for each in (one, other)]
    scale = float(np.sqrt(np.sum(pair[0] ** 2) * np.sum(pair[1] ** 2)))
    return float(np.sum(pair[0] * pair[1])) / scale if scale else float("nan")
