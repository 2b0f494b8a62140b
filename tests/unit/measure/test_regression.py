"""Verdicts on replayed series with a known truth: what each kind of noise, or of difference, leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.measure.regression import MOST_PREEMPTED, Decision, decide_verdict, holm_correction, p_value
from pipeline.measure.statistics import LogRatio, preempted_share
from pipeline.results.measurement import Conditions, SamplingPlan
from tests.unit.measure.replay import Scene, measured, plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MARGIN = 0.03
SEEDS = range(3)
FIXED = {"governor": "performance"}


def decided(scene: Scene, seed: int = 0, *, sessions: int = 6, **options: Any) -> Decision:  # noqa: ANN401
    """Replay a scene as a comparison would, and return its verdict."""
    found = measured(scene, seed=seed, plan=plan_of(sessions), margin=MARGIN, **options)
    return decide_verdict(found, margin=MARGIN, **options)


def codes(decision: Decision) -> tuple[str, ...]:
    """Return the words for machines."""
    return tuple(reason.code for reason in decision.reasons)


SAME = {
    "steady": Scene(),
    "quiet": Scene(shared=0.001, own=0.001, late=0),
    "drift to twice as slow": Scene(course=lambda over: 1 + over),
    "step in the middle": Scene(course=lambda over: 1 if over < 0.5 else 2),
    "every other round is noisy": Scene(uneven=20),
    "two threads, none preempted": Scene(threads=2, late=0),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SAME)
def test_what_hits_both_sides_alike_is_no_slowdown(name: str, seed: int) -> None:
    """Load, drift and steps that both sides share cancel in the ratio of a round."""
    found = decided(SAME[name], seed)
    assert (found.verdict, codes(found)) == ("PASS", ("not slower",))
    assert found.ratio is not None
    assert found.ratio.low < 1 < found.ratio.high < 1 + MARGIN


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SAME)
def test_slowdown_beyond_the_margin_is_found_all_the_same(name: str, seed: int) -> None:
    """None of this hides a candidate that is a tenth slower."""
    scene = SAME[name]
    slower = Scene(**{**vars(scene), "wall": (1.0, 1.1)})
    found = decided(slower, seed)
    assert (found.verdict, codes(found)) == ("FAIL", ("slower",))
    assert found.p_value is not None
    assert found.p_value < 0.025


def test_each_session_fast_or_slow_by_chance_is_never_a_fail() -> None:
    """Where the layout of memory decides, the sessions disagree, and the interval says so."""
    found = [decided(Scene(session=0.05), seed, sessions=4) for seed in range(12)]
    assert {each.verdict for each in found} <= {"PASS", "INCONCLUSIVE"}
    assert sum(each.verdict == "INCONCLUSIVE" for each in found) >= 6
    assert all((each.error or 0) > 0.004 for each in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_slowdown_at_the_margin_cannot_be_told(seed: int) -> None:
    """The interval includes the margin, whichever way it falls."""
    found = decided(Scene(wall=(1.0, 1 + MARGIN)), seed)
    assert (found.verdict, codes(found)) == ("INCONCLUSIVE", ("budget",))
    assert "includes the margin" in found.reasons[0].text


CONTENDED = Scene(wall=(1.0, 1.15), cpu=(1.0, 1.0))
WAITING = Scene(wall=(1.0, 1.15), cpu=(1.0, 1.0), late=0.005, steal=0.0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wall", [1.15, 0.85])
def test_wall_time_alone_moved_on_a_busy_machine(wall: float, seed: int) -> None:
    """What only the wall clock says while others ran is not the file's: neither slower nor faster."""
    found = decided(Scene(wall=(1.0, wall), cpu=(1.0, 1.0)), seed)
    assert (found.verdict, codes(found), found.clock) == ("INCONCLUSIVE", ("not slower", "contended"), "cpu")


def test_stolen_time_is_other_work_too() -> None:
    """Without one interruption, a hypervisor that gave a fifth of the time to others made the wall clock wrong."""
    found = decided(Scene(**{**vars(CONTENDED), "late": 0, "steal": 0.2}))
    assert (found.verdict, codes(found)) == ("INCONCLUSIVE", ("not slower", "contended"))


@pytest.mark.parametrize("seed", SEEDS)
def test_file_that_waits_on_a_quiet_machine_is_slower(seed: int) -> None:
    """CPU time is blind to sleeping: with nothing else running the wall clock decides."""
    found = decided(WAITING, seed)
    assert (found.verdict, codes(found), found.clock) == ("FAIL", ("slower", "waiting"), "wall")
    assert found.ratio == found.wall
    assert "the file itself waits" in found.reasons[1].text


def test_file_that_no_longer_waits_is_not_slower() -> None:
    """The other way round it is faster on the wall clock, and that is no reason to doubt."""
    found = decided(Scene(**{**vars(WAITING), "wall": (1.15, 1.0)}))
    assert (found.verdict, codes(found), found.clock) == ("PASS", ("not slower", "waiting"), "wall")


def test_asked_metric_decides_whatever_the_other_says() -> None:
    """Who asks for CPU time gets CPU time's verdict, with the disagreement beside it."""
    by_cpu, by_wall = decided(WAITING, metric="cpu"), decided(WAITING, metric="wall")
    assert (by_cpu.verdict, by_cpu.clock, codes(by_cpu)) == ("PASS", "cpu", ("not slower", "waiting"))
    assert (by_wall.verdict, by_wall.clock) == ("FAIL", "wall")


@pytest.mark.parametrize(("wall", "verdict"), [(0.8, "PASS"), (1.2, "FAIL")])
def test_wall_time_decides_with_more_threads(wall: float, verdict: str) -> None:
    """CPU time adds up over threads: half as much again says nothing about how long it takes."""
    found = decided(Scene(wall=(1.0, wall), cpu=(1.0, 1.5), threads=2, late=0.02))
    assert (found.verdict, found.clock, len(found.reasons)) == (verdict, "wall", 1)


HOT = Scene(temperature_c=lambda over: 50 + 60 * over)
DIFFERENT = Scene(frequency_mhz=(2000.0, 1800.0))


@pytest.mark.parametrize("scene", [HOT, DIFFERENT], ids=["heat", "frequency"])
@pytest.mark.parametrize("wall", [1.0, 1.1])
def test_throttled_device_gives_no_verdict(scene: Scene, wall: float) -> None:
    """A device that became hot, or clocked one side higher, is neither quick nor slow."""
    found = decided(Scene(**{**vars(scene), "wall": (1.0, wall)}))
    assert found.verdict == "INCONCLUSIVE"
    assert codes(found)[-1] == "throttled"


@pytest.mark.parametrize(
    "scene",
    [
        Scene(temperature_c=lambda over: 50 + 9 * over),
        Scene(temperature_c=lambda over: 70 - 30 * over),
        Scene(frequency_mhz=(2000.0, 1920.0)),
        Scene(frequency_mhz=(2000.0, 1800.0), fingerprint=FIXED),
    ],
    ids=["warmer by 9", "cooled down", "4 % apart", "governor fixed"],
)
def test_small_moves_are_no_throttling(scene: Scene) -> None:
    """Less than 10 degrees, cooling down, less than 5 % of frequency, or a governor that holds it."""
    assert decided(scene).verdict == "PASS"


def test_governor_of_either_side_counts() -> None:
    """A frequency is fixed only when it is on both sides."""
    found = measured(Scene(frequency_mhz=(2000.0, 1800.0), fingerprint=FIXED))
    loose = found.subjects[1].model_copy(update={"fingerprint": {"governor": "schedutil"}})
    mixed = found.model_copy(update={"subjects": (found.subjects[0], loose)})
    assert codes(decide_verdict(mixed, margin=MARGIN)) == ("not slower", "throttled")
    assert codes(decide_verdict(mixed, margin=MARGIN, baseline=1, candidate=0)) == ("not slower", "throttled")


@pytest.mark.parametrize("wall", [1.0, 1.2])
def test_wall_time_of_interrupted_blocks_gives_no_verdict(wall: float) -> None:
    """When most blocks were interrupted the wall clock is the scheduler's; CPU time is still good."""
    scene = Scene(wall=(1.0, wall), late=0.3)
    found = measured(scene, plan=plan_of(6), margin=MARGIN, metric="wall")
    assert preempted_share(found.subjects[0]) > MOST_PREEMPTED
    by_wall, by_cpu = (decide_verdict(found, margin=MARGIN, metric=metric) for metric in ("wall", "cpu"))
    assert (by_wall.verdict, codes(by_wall)[-1]) == ("INCONCLUSIVE", "preempted")
    assert by_cpu.verdict == ("FAIL" if wall > 1 else "PASS")


@pytest.mark.parametrize("sessions", [0, 1, 3])
@pytest.mark.parametrize("wall", [0.5, 1.0, 2.0])
def test_too_few_sessions_are_never_a_verdict(sessions: int, wall: float) -> None:
    """However clear the numbers look, fewer sessions than the plan's minimum say nothing."""
    found = measured(Scene(wall=(1.0, wall)))
    short = [each.model_copy(update={"sessions": each.sessions[:sessions]}) for each in found.subjects]
    decision = decide_verdict(found.model_copy(update={"subjects": tuple(short), "seconds": 2.0}), margin=MARGIN)
    assert (decision.verdict, codes(decision)) == ("INCONCLUSIVE", ("budget",))
    assert f"only {sessions} of 4 sessions" in decision.reasons[0].text
    assert ("try --budget" in decision.reasons[0].text) == (sessions > 0)
    assert (decision.ratio, decision.p_value) == (None, None)


def test_subjects_are_chosen_by_their_place() -> None:
    """Any two subjects of a measurement can be compared."""
    found = measured(Scene(wall=(1.0, 1.1)))
    assert decide_verdict(found, margin=MARGIN, baseline=1, candidate=0).verdict == "PASS"
    assert decide_verdict(found, margin=MARGIN, baseline=0, candidate=0).verdict == "PASS"


def test_detectable_slowdown_lies_beyond_the_margin() -> None:
    """What would have been found in four of five measurements grows with the noise."""
    quiet, noisy = decided(Scene()), decided(Scene(session=0.05), sessions=4)
    assert quiet.detectable is not None
    assert noisy.detectable is not None
    assert MARGIN < quiet.detectable < noisy.detectable


def test_heat_is_seen_where_conditions_are_known() -> None:
    """Sensors that cannot be read are no reason to doubt."""
    found = measured(HOT, plan=plan_of(6))
    blind = found.model_copy(update={"conditions": (Conditions(),) * len(found.conditions)})
    assert decide_verdict(found, margin=MARGIN).verdict == "INCONCLUSIVE"
    assert decide_verdict(blind, margin=MARGIN).verdict == "PASS"


@pytest.mark.parametrize(
    ("budget_s", "above", "expected"),
    [(1, 0.0, 0.5), (1, 1.959964, 0.025), (6, 1.959964, 0.1), (6, -3.0, 1.0), (30, 2.734369, 0.025)],
)
def test_p_value_is_multiplied_by_the_looks(budget_s: float, above: float, expected: float) -> None:
    """One, four and eight looks: at the quantile of a plan's interval it is half of 1 - level, and never above 1."""
    plan = SamplingPlan(budget_s=budget_s)
    found = LogRatio(centre=above * 0.01, error=0.01)
    assert p_value(found, plan, 0.0) == pytest.approx(expected, rel=1e-4)


def test_fail_needs_its_share_of_the_level_among_many_comparisons() -> None:
    """What is a FAIL alone is none among a hundred questions; PASS does not become harder."""
    scene = Scene(wall=(1.0, 1.041))
    alone, among = (measured(scene, plan=plan_of(4, comparisons=number)) for number in (1, 100))
    assert decide_verdict(alone, margin=MARGIN).verdict == "FAIL"
    assert decide_verdict(among, margin=MARGIN).verdict == "INCONCLUSIVE"
    same = measured(Scene(), plan=plan_of(4, comparisons=100))
    assert decide_verdict(same, margin=MARGIN).verdict == "PASS"


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.06], [False]),
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.0125, 0.016, 0.025, 0.05], [True, True, True, True]),
        ([0.013, 0.001], [True, True]),
        ([0.026, 0.026], [False, False]),
        ([0.02, 0.02, 0.02], [False, False, False]),
    ],
)
def test_holm_by_hand(p_values: Sequence[float], expected: list[bool]) -> None:
    """The smallest is held against rate / m, the next against rate / (m - 1); the first that fails ends it."""
    assert holm_correction(p_values, 0.05) == expected
