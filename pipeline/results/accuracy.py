"""Accuracy from predictions, and the difference of two networks on the same images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pipeline.results.run import Accuracy, Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z95 = 1.959963984540054


def score_predictions(predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Accuracy:
    """Return accuracy, balanced accuracy (mean recall over the classes present) and F1 of predictions [N]."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    right = np.diag(counts)
    actual, predicted = counts.sum(axis=1), counts.sum(axis=0)
    present = actual > 0
    recall = right[present] / actual[present]
    f1 = 2 * right / np.maximum(actual + predicted, 1)
    return Accuracy(
        images=len(labels),
        accuracy=float(right.sum() / len(labels)),
        balanced_accuracy=float(recall.mean()),
        f1=float(f1[-1] if classes == 2 else f1[present].mean()),  # noqa: PLR2004 (two classes: the positive one's)
    )


def paired_difference(before: NDArray[np.int64], after: NDArray[np.int64], labels: NDArray[np.int64]) -> Interval:
    """Return accuracy(after) - accuracy(before) on the same images with a 95 % interval.

    Source: the adjusted Wald interval for paired proportions of Bonett and Price 2012, which holds its level when few
    predictions change. `value` is the plain difference.
    """
    right_before, right_after = before == labels, after == labels
    gained, lost = int((~right_before & right_after).sum()), int((right_before & ~right_after).sum())
    total = len(labels)
    p_gained, p_lost = (gained + 1) / (total + 2), (lost + 1) / (total + 2)
    centre = p_gained - p_lost
    half = Z95 * math.sqrt((p_gained + p_lost - centre**2) / (total + 2))
    return Interval(value=(gained - lost) / total, low=max(-1.0, centre - half), high=min(1.0, centre + half))
