"""Tests of what a classifier answers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.classification import NO_CLASS, is_logits, predicted_classes, share_equal

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("logits", "answer"),
    [
        ([1.0, 3.0, 2.0], 1),
        ([2.0, 2.0, 0.0], 0),
        ([-INF, -1.0, -INF], 1),
        ([0.0, INF, 1.0], NO_CLASS),
        ([NAN, 5.0, 1.0], NO_CLASS),
        ([-INF, -INF, -INF], NO_CLASS),
    ],
)
def test_an_answer_is_the_largest_logit_and_none_without_one(logits: list[float], answer: int) -> None:
    """Minus infinity loses; NaN and infinity win nothing."""
    assert predicted_classes(np.array([logits], np.float32)).tolist() == [answer]


def test_no_class_is_never_right() -> None:
    """The first image has no answer; one of the other two is right."""
    answers = predicted_classes(np.array([[NAN, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    assert share_equal(answers, np.array([0, 1, 1])) == 1 / 3


@pytest.mark.parametrize(("shape", "logits"), [((4, 2), 1), ((4, 1), 0), ((4,), 0), ((4, 2, 2), 0)])
def test_logits_are_a_row_of_classes_for_each_image(shape: tuple[int, ...], logits: int) -> None:
    """Two columns at least."""
    assert is_logits(np.zeros(shape)) == logits
