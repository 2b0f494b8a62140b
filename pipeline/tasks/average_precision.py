"""Average precision of boxes as COCO counts it, from matches of each image that are kept, so that a bootstrap is quick.

Source: `COCOeval` of pycocotools: greedy matching by falling score, at most 100 boxes of a class in an image, precision
made monotone and read at 101 recalls, the mean over classes that occur and over thresholds. All areas, no crowds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .boxes import box_overlaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float64]
    #: Of one image: classes [D], scores [D], whether it was right at each threshold [D, T]; true boxes of classes [K]
    Matches = tuple[Array, Array, NDArray[np.bool_], NDArray[np.int64]]

BOXES_OF_A_CLASS = 100
RECALLS = np.linspace(0.0, 1.0, 101)
THRESHOLDS = np.linspace(0.5, 0.95, 10)


class AveragePrecision:
    """The mean average precision over these thresholds of intersection over union.

    Predictions are [M, 6] (x1, y1, x2, y2, score, class), targets [N, 5] (x1, y1, x2, y2, class).
    """

    unit, range, higher_is_better, is_mean = "", (0.0, 1.0), True, False

    def __init__(self, name: str, classes: int, thresholds: Sequence[float] | Floats = THRESHOLDS) -> None:
        self.name, self._classes = name, classes
        self._thresholds = np.asarray(thresholds, dtype=np.float64)

    def statistic(self, prediction: Array, target: Array) -> Matches:
        """Return what is right in one image: its matches, which are small."""
        found, truth = np.asarray(prediction, np.float64).reshape(-1, 6), np.asarray(target, np.float64).reshape(-1, 5)
        parts = [self._of_class(found, truth, each) for each in np.unique(found[:, 5])]
        counts = np.bincount(truth[:, 4].astype(np.int64), minlength=self._classes)
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros((0, len(self._thresholds)), bool), counts
        classes, scores, right = (np.concatenate([part[place] for part in parts]) for place in range(3))
        return classes, scores, right, counts

    def _of_class(self, found: Array, truth: Array, each: float) -> tuple[Array, Array, NDArray[np.bool_]]:
        boxes = found[found[:, 5] == each]
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")][:BOXES_OF_A_CLASS]
        overlaps = box_overlaps(boxes[:, :4], truth[truth[:, 4] == each][:, :4])
        right = np.stack([_matched(overlaps, threshold) for threshold in self._thresholds], axis=1)
        return np.full(len(boxes), int(each)), boxes[:, 4], right

    def compute(self, statistics: Sequence[Matches]) -> float:
        """Return the score of these images: the mean over the classes that occur in them; NaN where none does."""
        found = self.by_class(statistics)
        return float(np.nanmean(found)) if len(found) and not np.isnan(found).all() else float("nan")

    def by_class(self, statistics: Sequence[Matches]) -> Floats:
        """Return the average precision of each class [K] over the thresholds; NaN for those that do not occur."""
        if not statistics:
            return np.full(self._classes, np.nan)
        classes, scores, right = (np.concatenate([image[place] for image in statistics]) for place in range(3))
        truths = np.sum([image[3] for image in statistics], axis=0)
        order = np.argsort(-scores, kind="stable")
        classes, right = classes[order], right[order]
        of_class = [_precision(right[classes == each], truths[each]) for each in range(self._classes)]
        return np.asarray(of_class, dtype=np.float64)


def _matched(overlaps_DG: Array, threshold: float) -> NDArray[np.bool_]:
    """Return which boxes [D], by falling score, take a true one: that of most overlap which is still free."""
    right = np.zeros(len(overlaps_DG), dtype=bool)
    free = np.ones(overlaps_DG.shape[1], dtype=bool)
    least = min(threshold, 1 - 1e-10)
    for place in np.flatnonzero((overlaps_DG >= least).any(axis=1)):
        allowed = np.where(free, overlaps_DG[place], -1.0)
        best = len(allowed) - 1 - int(np.argmax(allowed[::-1]))  # the last of equals, as pycocotools takes it
        if allowed[best] >= least:
            free[best], right[place] = False, True
    return right


def _precision(right_DT: NDArray[np.bool_], truths: int) -> float:
    """Return the mean over thresholds of the precision at 101 recalls; NaN without true boxes."""
    if truths == 0:
        return float("nan")
    if not len(right_DT):
        return 0.0
    hits = np.cumsum(right_DT, axis=0)
    recall, precision = hits / truths, hits / np.arange(1, len(hits) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    read = np.zeros((len(RECALLS), right_DT.shape[1]))
    for column in range(right_DT.shape[1]):
        places = np.searchsorted(recall[:, column], RECALLS, side="left")
        places = places[places < len(hits)]  # recalls that are not reached have a precision of zero
        read[: len(places), column] = precision[places, column]
    return float(read.mean())
