"""What is behind a difference: scores of classes, and the samples that lost most, as far as a metric has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.core.task import facts_of
from pipeline.report.run.details import detail_tables
from pipeline.results.details import class_scores, worst_changes
from pipeline.results.run import ClassScore, FinalTest, Interval, SampleChange, Score, TaskFacts
from pipeline.tasks.kinds import open_kit

NAMES = ("cat", "dog", "cow")
BOX = [0.0, 0.0, 8.0, 8.0]
MASK = np.array([[0, 1], [1, 1]])
#: Kind, settings, predictions before, after, targets; then the metric of classes and their scores, and what lost.
CASES: dict[str, tuple[dict[str, Any], list[Any], list[Any], list[Any], str, dict[str, tuple[Any, Any]], list[int]]] = {
    "detection": (
        {"classes": NAMES, "strides": [8]},
        [np.array([[*BOX, 0.9, 0]]), np.array([[*BOX, 0.9, 1]])],
        [np.array([[*BOX, 0.9, 0]]), np.zeros((0, 6))],
        [np.array([[*BOX, 0]]), np.array([[*BOX, 1]])],
        "mAP50-95",
        {"cat": (1.0, 1.0), "dog": (1.0, 0.0)},
        [1],
    ),
    "segmentation": (
        {"classes": NAMES},
        [MASK, MASK],
        [np.ones_like(MASK), MASK],
        [MASK, MASK],
        "mIoU",
        {"cat": (1.0, 0.5), "dog": (1.0, 6 / 7)},
        [0],
    ),
    "classification": (
        {"classes": NAMES},
        [0, 1, 1],
        [0, 0, 1],
        [0, 1, 1],
        "balanced_accuracy",
        {"cat": (1.0, 1.0), "dog": (1.0, 0.5)},
        [1],
    ),
    "regression": (
        {},
        [np.ones(2)] * 3,
        [np.ones(2), np.ones(2) * 3, np.ones(2) * 2],
        [np.ones(2)] * 3,
        "",
        {},
        [1, 2],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_classes_and_samples_as_far_as_the_metric_has_them(kind: str) -> None:
    """Classes that do not occur are left out; of errors the larger is the worse."""
    settings, before, after, targets, metric, classes, lost = CASES[kind]
    kit = open_kit(kind, **settings)
    name, found = class_scores(kit.metrics, before, after, targets, settings.get("classes", ()))
    assert name == metric
    assert {each.name: (each.original, each.result) for each in found} == {
        key: pytest.approx(pair) for key, pair in classes.items()
    }
    assert [each.place for each in worst_changes(kit.metrics[0], before, after, targets)] == lost


def test_tables_put_the_worst_first_and_say_nothing_without_any() -> None:
    """Fifty classes are shown; the samples by their place."""
    facts = facts_of(open_kit("segmentation", classes=NAMES).metrics[0])
    task = TaskFacts(kind="segmentation", metrics=(facts,), sample="sample")
    score = Score.model_validate({"images": 2, "mIoU": 0.5})
    plain = FinalTest(original=score, result=score, difference=Interval(value=0, low=0, high=0))
    assert detail_tables(plain, task) == ()
    assert {"classes", "worst", "class_metric"}.isdisjoint(plain.model_dump())
    rows = [ClassScore(name=f"c{each}", original=0.9, result=0.9 - each / 100) for each in range(60)]
    final = plain.model_copy(
        update={
            "class_metric": "mIoU",
            "classes": (*rows, ClassScore(name="new", original=None, result=0.1)),
            "worst": (SampleChange(place=7, original=0.9, result=0.4),),
        }
    )
    classes, samples = detail_tables(final, task)
    assert (len(classes.lines), classes.lines[0]) == (50, ("c59", "90.00 %", "31.00 %", "\N{MINUS SIGN}59.00"))
    assert "11 classes" in classes.note
    assert samples.lines == (("sample 7", "90.00 %", "40.00 %", "\N{MINUS SIGN}50.00"),)
