"""Accuracy figures and the paired difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.results.scores import paired_difference, score_predictions
from pipeline.tasks.classification import Classification

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


@dataclass
class Own:
    """A metric of the user's, whose score is no mean."""

    compute: Callable[[Sequence[float]], float]
    unit: str = "px"
    range: tuple[float, float] = (0.0, math.inf)
    name, higher_is_better, is_mean = "own", False, False
    statistic = staticmethod(lambda prediction, target: abs(prediction - target))


@pytest.mark.parametrize(("bounds", "expected"), [((0.0, math.inf), (-19, 20)), ((0.0, 2.0), (-2, 2))])
def test_one_sample_shows_no_difference(bounds: tuple[float, float], expected: tuple[float, float]) -> None:
    """Drawing it again and again would give one value, as if it were certain."""
    found = paired_difference(Own(np.mean, range=bounds), [1.0], [1.5], [0.0])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, *expected))


def test_a_metric_that_has_no_value_for_any_draw_is_refused() -> None:
    """Draws have samples twice."""
    own = Own(lambda kept: float(np.mean(kept)) if len({*kept}) == len(kept) else math.nan)
    samples = [float(each) for each in range(40)]
    with pytest.raises(InputError, match="own is no finite number for any of 500 draws of 40 samples"):
        paired_difference(own, samples, samples[::-1], [0.0] * 40)


def test_a_share_outside_its_range_is_refused() -> None:
    """It would be written in percent; another unit has any value, and a share's last digit may be rounded."""
    for own in (Own(lambda _: 11.6), Own(lambda _: 1 + 1e-9, "", (0.0, 1.0))):
        assert score_predictions([own], [1.0], [1.0]).judged > 1
    with pytest.raises(InputError, match=r"own of 1 samples is 11\.6, expected 0 to 1, its range: give it a unit"):
        score_predictions([Own(lambda _: 11.6, "", (0.0, 1.0))], [1.0], [1.0])
