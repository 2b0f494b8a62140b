"""Accuracy figures and the paired difference."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.stage import SilentProgress
from pipeline.results.scores import paired_difference, score_predictions
from pipeline.tasks.classification import Classification

ACCURACY = Classification(classes=2).metrics[0]


def test_two_classes_by_hand() -> None:
    """Three of four right; F1 is the positive class's, balanced accuracy the mean recall."""
    found = score_predictions(Classification(classes=2).metrics, [0, 1, 1, 1], [0, 0, 1, 1])
    assert (found.images, found.judged) == (4, 0.75)
    assert found.metrics["balanced_accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert found.metrics["f1"] == pytest.approx(2 * 2 / (2 + 3))


def test_more_classes_use_the_macro_mean_over_present_ones() -> None:
    """A class that does not occur is left out of the means."""
    found = score_predictions(Classification(classes=4).metrics, [0, 2], [0, 2])
    assert found.metrics == {"accuracy": 1.0, "balanced_accuracy": 1.0, "f1": 1.0}


def test_paired_difference_mirrors() -> None:
    """Exchanging the two networks turns the sign of value and interval."""
    labels = np.zeros(656, dtype=np.int64)
    before, after = labels.copy(), labels.copy()
    before[:20], after[15:40] = 1, 1
    forward, backward = (
        paired_difference(ACCURACY, before, after, labels),
        paired_difference(ACCURACY, after, before, labels),
    )
    assert forward.value == pytest.approx(-5 / 656)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert forward.low < forward.value < forward.high


def test_paired_interval_holds_its_level() -> None:
    """On simulated pairs with a true difference of 1 point the 95 % interval holds it in 93 % of cases or more."""
    generator = np.random.default_rng(0)
    labels = np.zeros(656, dtype=np.int64)
    held = 0
    for _ in range(500):
        draw = generator.random(656)
        found = paired_difference(
            ACCURACY, (draw < 0.04).astype(int), ((draw >= 0.04) & (draw < 0.09)).astype(int), labels
        )
        held += found.low <= -0.01 <= found.high
    assert held >= 465


def test_equal_predictions_still_have_an_interval() -> None:
    """No change on 100 images does not prove that there is none."""
    labels = np.zeros(100, dtype=np.int64)
    found = paired_difference(ACCURACY, labels, labels, labels)
    assert found.value == 0
    assert found.low < 0 < found.high


def test_resampling_a_set_metric_says_how_far_it_is() -> None:
    """A metric that is no mean is computed a thousand times; the interval does not depend on who looks."""
    told: list[tuple[float, float, str]] = []

    class Seen(SilentProgress):
        def update(self, done: float, total: float, text: str = "") -> None:
            told.append((done, total, text))

    balanced = Classification(classes=2).metrics[1]
    labels, other = [0, 1] * 20, [0, 1, 1, 1] * 10
    found = paired_difference(balanced, labels, other, labels, Seen())
    assert told[-1] == (500, 500, "resampling balanced_accuracy for its interval")
    assert found == paired_difference(balanced, labels, other, labels)
    assert found.value == pytest.approx(-0.25)
    assert found.low < -0.25 < found.high
