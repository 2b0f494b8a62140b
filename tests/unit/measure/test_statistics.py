"""Milliseconds, speedups and intervals from simulated series with a known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.measure.statistics import (
    FEW,
    Clock,
    Series,
    bootstrap,
    contended,
    hodges_lehmann,
    is_precise,
    latency_distribution,
    median_milliseconds,
    paired_speedup,
    plan_quantile,
    preempted_share,
    ratio_interval,
    report_timing,
    report_timings,
    round_statistics,
)
from pipeline.results.measurement import Measurement, SamplingPlan
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN = SamplingPlan(budget_s=1, replicates=60)
#: The standard normal's two-sided quantile at 5 %.
Z95 = 1.959964

nanoseconds = st.floats(min_value=1e3, max_value=1e9)
pairs_of_series = st.lists(
    st.lists(st.tuples(nanoseconds, nanoseconds), min_size=1, max_size=6), min_size=2, max_size=4
).map(lambda sessions: tuple(tuple(np.array(side) for side in zip(*rounds, strict=True)) for rounds in sessions))


def sides(pairs: tuple[tuple[np.ndarray, np.ndarray], ...]) -> tuple[Series, Series]:
    """Split sessions of pairs into two series."""
    return tuple(first for first, _ in pairs), tuple(second for _, second in pairs)


def interval(value: float, reach: float = 0.0) -> Interval:
    """Return an interval that reaches so far around `value`."""
    return Interval(value=value, low=value - reach, high=value + reach)


def test_hodges_lehmann_is_the_median_of_pairwise_means() -> None:
    """For 1, 2, 6 the pairwise means are 1, 1.5, 2, 3.5, 4, 6, whose median is 2.75."""
    assert hodges_lehmann(np.array([1.0, 2.0, 6.0])) == 2.75


def test_hodges_lehmann_ignores_one_wild_value() -> None:
    """A single outlier hardly moves the estimate."""
    values = np.append(np.linspace(-0.01, 0.01, 21), 50.0)
    assert abs(hodges_lehmann(values)) < 0.002


@settings(max_examples=40, deadline=None)
@given(pairs=pairs_of_series)
def test_swapping_sides_inverts_the_ratio(pairs: tuple[tuple[np.ndarray, np.ndarray], ...]) -> None:
    """B over A is 1 / (A over B), its bounds included and exchanged."""
    first, second = sides(pairs)
    there = ratio_interval(first, second, plan=PLAN, seed=1)
    back = ratio_interval(second, first, plan=PLAN, seed=1)
    inverted = (1 / back.value, 1 / back.high, 1 / back.low)
    assert (there.value, there.low, there.high) == pytest.approx(inverted, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(pairs=pairs_of_series, factor=st.floats(min_value=0.01, max_value=100))
def test_scaling_both_sides_changes_nothing(pairs: tuple[tuple[np.ndarray, np.ndarray], ...], factor: float) -> None:
    """A machine that is slower by a factor for both gives the same ratio and interval."""
    first, second = sides(pairs)
    plain = ratio_interval(first, second, plan=PLAN, seed=1)
    scaled = ratio_interval(
        tuple(factor * each for each in first), tuple(factor * each for each in second), plan=PLAN, seed=1
    )
    assert (plain.value, plain.low, plain.high) == pytest.approx((scaled.value, scaled.low, scaled.high), rel=1e-9)


def test_equal_sides_have_the_floor_as_their_error() -> None:
    """Two equal series give exactly 1, but no interval narrower than the floor allows."""
    series = tuple(np.full(5, 1e6) for _ in range(4))
    found = ratio_interval(series, series, plan=PLAN, seed=0)
    assert found.value == 1
    assert found.high == pytest.approx(np.exp(Z95 * 0.004), rel=1e-5)
    assert found.level == 0.95


def test_interval_is_the_same_each_time_it_is_computed(simulate: Callable[..., Measurement]) -> None:
    """The bootstrap is seeded by the measurement."""
    measurement = simulate({"a": 2.0, "b": 1.0})
    assert paired_speedup(measurement, 1, "wall") == paired_speedup(measurement, 1, "wall")


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_true_speedup_lies_within_a_narrow_interval(simulate: Callable[..., Measurement], clock: Clock) -> None:
    """Shared noise of 30 % and preemptions cancel: a speedup of 2 is found within 2 %."""
    found = paired_speedup(simulate({"a": 2.0, "b": 1.0}), 1, clock)
    assert found is not None
    assert 1.96 < found.low < 2.0 < found.high < 2.04


def test_interval_covers_no_change_as_often_as_stated(simulate: Callable[..., Measurement]) -> None:
    """Of 40 comparisons of equal files, intervals of 95 % miss 1 in two or fewer."""
    plan = SamplingPlan(budget_s=1, replicates=60)
    found = [paired_speedup(simulate({"a": 1.0, "b": 1.0}, seed=seed, plan=plan), 1, "wall") for seed in range(40)]
    assert sum(not each.low <= 1 <= each.high for each in found if each is not None) <= 2


def test_session_effects_widen_the_interval() -> None:
    """Rounds that agree within a session but not between sessions do not count as independent."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (4, 40))
    base = tuple(np.full(40, 1e6) for _ in range(4))
    independent = tuple(1e6 * np.exp(session) for session in noise)
    shifted = tuple(1e6 * np.exp(session + 0.05 * (-1) ** i) for i, session in enumerate(noise))
    narrow = ratio_interval(base, independent, plan=PLAN, seed=0)
    wide = ratio_interval(base, shifted, plan=PLAN, seed=0)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_more_looks_widen_the_interval() -> None:
    """The error rate is split over the looks that sampling may take."""
    series = tuple(np.full(5, 1e6) for _ in range(4))
    one_look = ratio_interval(series, series, plan=SamplingPlan(budget_s=1), seed=0)
    four_looks = ratio_interval(series, series, plan=SamplingPlan(budget_s=6), seed=0)
    assert one_look.high == pytest.approx(np.exp(Z95 * 0.004), rel=1e-5)
    assert four_looks.high == pytest.approx(np.exp(2.497705 * 0.004), rel=1e-5)
    assert plan_quantile(SamplingPlan(budget_s=6)) == pytest.approx(2.497705)


def test_bootstrap_draws_only_from_the_rounds_of_chosen_sessions() -> None:
    """Sessions of unequal length are drawn from in full, and never beyond their end."""
    series = (np.array([1.0]), np.array([10.0, 20.0, 30.0]))
    drawn: set[float] = set()

    def collect(values: np.ndarray) -> float:
        drawn.update(values.tolist())
        return float(len(values))

    lengths = bootstrap(series, collect, replicates=50, seed=0)
    assert drawn == {1.0, 10.0, 20.0, 30.0}
    assert set(lengths) == {4.0}


def test_round_statistic_is_the_minimum_on_both_clocks(simulate: Callable[..., Measurement]) -> None:
    """Each block gives its shortest wall time, and its shortest CPU time."""
    subject = simulate({"a": 1.0}).subjects[0]
    block = subject.sessions[1].rounds[2]
    assert round_statistics(subject, "wall")[1][2] == min(block.wall_ns)
    assert round_statistics(subject, "cpu")[1][2] == min(block.cpu_ns)


@pytest.mark.parametrize(
    ("cpu_ns", "expected"), [((0, 700, 650, 800), 650), ((0, 0, 0, 10_000_000), 900), ((0, 0, 0, 0), 900)]
)
def test_cpu_clock_that_stood_still_says_nothing(
    simulate: Callable[..., Measurement], cpu_ns: tuple[int, ...], expected: int
) -> None:
    """An inference of no CPU time is left out, and wall time stands for a block that has mostly such."""
    subject = simulate({"a": 1.0}).subjects[0]
    times = {"wall_ns": (1000, 900, 1100, 950), "cpu_ns": cpu_ns}
    session = subject.sessions[0]
    session = session.model_copy(update={"rounds": (session.rounds[0].model_copy(update=times),)})
    subject = subject.model_copy(update={"sessions": (session,)})
    assert round_statistics(subject, "cpu")[0].tolist() == [expected]


def test_milliseconds_lie_within_their_interval(simulate: Callable[..., Measurement]) -> None:
    """The absolute time is a median with bounds on both sides."""
    found = median_milliseconds(simulate({"a": 2.0}).subjects[0], "wall", plan=PLAN, seed=0)
    assert 2.0 < found.low < found.value < found.high < 3.5


def test_distribution_leaves_out_quantiles_that_the_sample_cannot_show(
    simulate: Callable[..., Measurement],
) -> None:
    """240 inferences show p99; 60 do not, and it is absent then."""
    subject = simulate({"a": 1.0}).subjects[0]
    full = latency_distribution(subject, "wall")
    part = latency_distribution(subject.model_copy(update={"sessions": subject.sessions[:1]}), "wall")
    assert full.inferences == 240
    assert full.p50 is not None
    assert full.p99 is not None
    assert full.min < full.p50 < full.p99
    assert (part.inferences, part.p99) == (60, None)
    assert part.p95 is not None


def test_preempted_share_counts_blocks(simulate: Callable[..., Measurement]) -> None:
    """About 1 - 0.8^5 of the simulated blocks of five saw a preemption."""
    assert preempted_share(simulate({"a": 1.0}).subjects[0]) == pytest.approx(0.67, abs=0.15)


def test_disagreeing_clocks_on_one_thread_are_contended(simulate: Callable[..., Measurement]) -> None:
    """Wall says 2, CPU says 1.5: something else ran."""
    measurement = simulate({"a": 2.0, "b": 1.0}, cpu_ms={"a": 1.5, "b": 1.0})
    assert report_timing(measurement, 1).contended
    assert not report_timing(simulate({"a": 2.0, "b": 1.0}), 1).contended


@pytest.mark.parametrize(
    ("wall", "cpu", "threads", "expected"),
    [(1.0, 1.04, 1, False), (1.0, 1.06, 1, True), (1.06, 1.0, 1, True), (1.0, 2.0, 2, False)],
)
def test_contention_is_a_relative_margin_on_one_thread(
    wall: float, cpu: float, threads: int, *, expected: bool
) -> None:
    """5 % apart in either direction counts, but not with more threads, whose CPU time adds up."""
    assert contended(interval(wall), interval(cpu), threads=threads, margin=0.05) is expected


def test_clocks_disagree_only_beyond_their_own_noise() -> None:
    """Intervals that overlap are no disagreement, however far apart their centres are."""
    assert contended(interval(1.0, 0.02), interval(1.1, 0.02), threads=1, margin=0.05)
    assert not contended(interval(1.0, 0.06), interval(1.1, 0.06), threads=1, margin=0.05)
    assert not contended(None, interval(1.1), threads=1, margin=0.05)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-1, 1), min_size=FEW + 1, max_size=FEW + 60))
def test_both_ways_to_the_hodges_lehmann_estimate_agree(values: list[float]) -> None:
    """The search on many values finds what all their pairs give."""
    array = np.array(values)
    first, second = np.triu_indices(len(array))
    by_pairs = np.median((array[first] + array[second]) / 2)
    assert hodges_lehmann(array) == pytest.approx(by_pairs, abs=1e-3 * np.ptp(array) + 1e-12)


def test_baseline_has_times_and_no_speedup(simulate: Callable[..., Measurement]) -> None:
    """Nothing is faster than itself."""
    row = report_timing(simulate({"a": 2.0, "b": 1.0}), 0)
    assert row.speedup is None
    assert row.cpu_speedup is None
    assert row.cpu_milliseconds is not None
    assert not row.contended


def test_timings_have_a_row_for_every_file_and_runtime(simulate: Callable[..., Measurement]) -> None:
    """Rows are found by digest and runtime; a file measured twice has that of its first time."""
    measurement = simulate({"a": 2.0, "b": 1.0})
    twice = measurement.model_copy(update={"subjects": (*measurement.subjects, measurement.subjects[0])})
    rows = report_timings(twice)
    assert list(rows) == [("a", "onnxruntime", ""), ("b", "onnxruntime", "")]
    assert rows["a", "onnxruntime", ""].speedup is None
    assert rows["b", "onnxruntime", ""] == report_timing(measurement, 1)


def test_precision_is_asked_of_every_pair(simulate: Callable[..., Measurement]) -> None:
    """Quiet pairs are precise at 4 %, not at 1 %."""
    measurement = simulate({"a": 2.0, "b": 1.0, "c": 1.5})
    assert is_precise(measurement.subjects, plan=PLAN, seed=0)
    assert not is_precise(measurement.subjects, plan=PLAN.model_copy(update={"width": 0.01}), seed=0)


def test_precision_of_a_single_file_is_that_of_its_time(simulate: Callable[..., Measurement]) -> None:
    """Without a pair, the shared noise of 30 % stays in, and the time itself is not known to 4 %."""
    subjects = simulate({"a": 2.0}).subjects
    assert not is_precise(subjects, plan=PLAN, seed=0)
    assert is_precise(subjects, plan=PLAN.model_copy(update={"width": 0.5}), seed=0)
