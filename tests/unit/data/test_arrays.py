"""Arrays for a task: what keeps them from being used is said in words, whatever they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.core.dataset import Arrays, Samples
from pipeline.core.errors import InputError
from pipeline.core.task import statistics_of
from pipeline.data.arrays import kit_task
from pipeline.tasks.config import ClassificationTask
from pipeline.tasks.kinds import open_kit

IMAGES = np.zeros((4, 3, 8, 8), np.uint8)
LABELS = np.array([0, 1, 0, 1])
CONFIG = ClassificationTask(kind="classification")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": None}, "targets are a NoneType, allowed: an array"),
        ({"targets": []}, "no samples, allowed: one or more"),
        ({"inputs": {}}, r"inputs have the keys \[\], allowed: arrays by name"),
        ({"inputs": {"": IMAGES}}, r"inputs have the keys \[''\], allowed"),
        ({"inputs": {1: IMAGES}}, r"inputs have the keys \[1\], allowed"),
        ({"inputs": IMAGES}, "inputs have a ndarray, allowed"),
        ({"inputs": {"image": IMAGES.transpose(0, 2, 3, 1)}}, "channels last, allowed"),
        ({"classes": 2}, "classes is 2, allowed: the names of classes"),
    ],
)
def test_what_cannot_be_looked_at(change: dict[str, Any], said: str) -> None:
    """One message each, and no traceback."""
    given = {"inputs": {"image": IMAGES}, "targets": LABELS, "classes": ("bolt", "nut"), **change}
    samples = Samples(given["inputs"], given["targets"])
    with pytest.raises(InputError, match=said):
        kit_task(
            ClassificationTask(kind="classification"), Arrays("a", samples, samples, samples, given["classes"]), "data"
        )


def test_a_kit_that_cannot_compare_is_told_with_the_sample() -> None:
    """What a kit raises is no fault of the program."""
    metric = open_kit("segmentation", classes=2).metrics[0]
    masks = [np.zeros((4, 4), int), np.zeros((4, 4), int)]
    with pytest.raises(InputError, match="the metric mIoU cannot compare sample 1 with its target: mask of"):
        statistics_of(metric, masks, [masks[0], np.zeros((4, 5), int)])
