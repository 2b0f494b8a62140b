"""Boxes (x1, y1, x2, y2) in pixels, x2 and y2 being edges: overlap, and which of overlapping ones stay. numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def box_areas(boxes_N4: Array) -> Array:
    """Return the areas [N]; none is negative."""
    sides = np.maximum(boxes_N4[..., 2:4] - boxes_N4[..., 0:2], 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def box_overlaps(one_N4: Array, other_M4: Array) -> Array:
    """Return intersection over union [N, M]; 0 where both areas are."""
    low = np.maximum(one_N4[:, None, :2], other_M4[None, :, :2])
    high = np.minimum(one_N4[:, None, 2:4], other_M4[None, :, 2:4])
    sides = np.maximum(high - low, 0)
    common = sides[..., 0] * sides[..., 1]
    union = box_areas(one_N4)[:, None] + box_areas(other_M4)[None, :] - common
    return np.asarray(common / np.where(union > 0, union, 1))


def matched_boxes(one_N4: Array, other_M4: Array, least: float) -> int:
    """Return how many pairs of boxes overlap by `least`, each in one pair at most, those of most overlap first."""
    overlaps = box_overlaps(one_N4, other_M4)
    pairs = 0
    while overlaps.size and overlaps.max() >= least:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        overlaps[row, :] = overlaps[:, column] = -1.0
        pairs += 1
    return pairs


def suppress(boxes_N4: Array, scores_N: Array, threshold: float) -> NDArray[np.int64]:
    """Return the places of the boxes that stay, by falling score (greedy non-maximum suppression).

    The best one stays, and those that overlap it by more than the threshold go; so on with what is left.
    """
    left = np.argsort(-scores_N, kind="stable")
    stay: list[int] = []
    while left.size:
        best, left = left[0], left[1:]
        stay.append(int(best))
        left = left[box_overlaps(boxes_N4[best : best + 1], boxes_N4[left])[0] <= threshold]
    return np.asarray(stay, dtype=np.int64)


def suppress_by_class(boxes_N4: Array, scores_N: Array, classes_N: Array, threshold: float) -> NDArray[np.int64]:
    """Return the places of the boxes that stay, by falling score; boxes of different classes let each other be."""
    if not len(scores_N):
        return np.zeros(0, dtype=np.int64)
    of_class = [np.flatnonzero(classes_N == each) for each in np.unique(classes_N)]
    stay = np.concatenate([each[suppress(boxes_N4[each], scores_N[each], threshold)] for each in of_class])
    return np.asarray(stay[np.argsort(-scores_N[stay], kind="stable")], dtype=np.int64)
