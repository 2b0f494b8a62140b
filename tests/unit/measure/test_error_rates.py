"""How often a verdict is wrong, over hundreds of simulated comparisons with all their looks.

Rounds are noisier than usual here, so that the bootstrap's error counts and not the plan's floor; there are fewer of
them, and fewer replicates, than in a real comparison, so that this takes seconds.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest

from pipeline.measure.regression import decide_verdict
from tests.unit.measure.replay import Scene, measured, plan_of

MARGIN = 0.03
#: Three looks, after 4, 6 and 9 sessions.
PLAN = plan_of(9, max_rounds=4, replicates=25)


def verdicts(count: int, **scene: float | tuple[float, float]) -> Counter[str]:
    """Return how often each verdict was given in so many comparisons: 18 % of inferences preempted, shared noise."""
    found: Counter[str] = Counter()
    for seed in range(count):
        content = {"own": 0.15, "shared": 0.3, "late": 0.18, **scene}
        measurement = measured(Scene(**content), seed=seed, plan=PLAN, margin=MARGIN)  # type: ignore[arg-type]
        found[decide_verdict(measurement, margin=MARGIN).verdict] += 1
    return found


def at_most(rate: float, count: int) -> float:
    """Return the most events at this rate that chance explains: two standard deviations above the mean."""
    return count * rate + 2 * math.sqrt(count * rate * (1 - rate))


def test_plan_has_several_looks_and_noise_beyond_the_floor() -> None:
    """What is simulated tests what it should: stopping early, and the bootstrap."""
    scene = Scene(own=0.15, shared=0.3)
    errors = [decide_verdict(measured(scene, seed=seed, plan=PLAN), margin=MARGIN).error for seed in range(5)]
    assert PLAN.looks_after == (4, 6, 9)
    assert all(error is not None and error > PLAN.error_floor for error in errors)


@pytest.mark.slow
def test_equal_files_hardly_ever_fail() -> None:
    """Of 400 comparisons of a file with itself at most 1 % say FAIL, and most say PASS."""
    found = verdicts(400)
    assert found["FAIL"] <= 4
    assert found["PASS"] >= 360


@pytest.mark.slow
def test_slowdown_at_the_margin_is_hardly_ever_decided() -> None:
    """Of 400 at most 2.5 % say FAIL and at most 2.5 % PASS, looks included."""
    found = verdicts(400, wall=(1.0, 1 + MARGIN))
    assert found["FAIL"] <= at_most(0.025, 400)
    assert found["PASS"] <= at_most(0.025, 400)


@pytest.mark.slow
def test_small_bias_of_a_session_is_within_the_rates() -> None:
    """The same with half a percent of bias for each side in each session, as another layout of memory gives."""
    found = verdicts(200, wall=(1.0, 1 + MARGIN), own=0.05, session=0.005)
    assert found["FAIL"] <= at_most(0.025, 200)
    assert found["PASS"] <= at_most(0.025, 200)


def test_ten_percent_are_found() -> None:
    """Of 150 comparisons with a true slowdown of 10 % at least 99 % say FAIL, and none PASS."""
    found = verdicts(150, wall=(1.0, 1.1))
    assert found["FAIL"] >= 149
    assert found["PASS"] == 0
