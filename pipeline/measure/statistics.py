"""From raw samples to milliseconds and speedups with intervals.

Per round, r = log(statistic of the baseline's block) - log(statistic of the subject's block), where the statistic is
the block's minimum, on the wall clock as in CPU time: other load only ever adds, to CPU time too (caches, a core shared
with a neighbour), and the standard error of the minimum was about two thirds of the median's. The speedup is
exp of the Hodges-Lehmann estimate of r over all rounds. Rounds of one session are not independent, so the standard
error comes from a bootstrap in two levels: sessions, and rounds within each.

Source: Hodges & Lehmann, "Estimates of Location Based on Rank Tests" (1963); Davison & Hinkley, "Bootstrap Methods
and their Application" (1997), section 3.8, for resampling at two levels.

Limits: tails (p95, p99) of a shared machine are its load, not the network's. CPU time is blind to waiting and to an
uneven share of work among threads. On few sessions with a large effect of their own, an interval is somewhat short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.core.units import NANOSECONDS_PER_MILLISECOND
from pipeline.results.comparison import Spread
from pipeline.results.run import Interval, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime
    from pipeline.results.measurement import Block, Measurement, SamplingPlan, SubjectSamples

Clock = Literal["wall", "cpu"]
#: One value per round, an array for each session.
Series = tuple["NDArray[np.float64]", ...]

#: Up to this many values all pairs are cheaper than a search.
FEW = 300
_QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


def round_statistics(subject: SubjectSamples, clock: Clock) -> Series:
    """Return one value in ns per round: the block's minimum on the wall clock or in CPU time."""
    statistic = _fastest_wall if clock == "wall" else _fastest_cpu
    return tuple(np.array([statistic(block) for block in session.rounds], float) for session in subject.sessions)


def _fastest_wall(block: Block) -> int:
    return min(block.wall_ns)


def _fastest_cpu(block: Block) -> int:
    """Return the smallest CPU time that is not zero; the smallest wall time where most are zero.

    A virtual machine's kernel may take stolen time off CPU time and then finds none left for a short inference; some
    kernels count CPU time in ticks longer than an inference.
    """
    counted = [each for each in block.cpu_ns if each > 0]
    return min(counted) if 2 * len(counted) >= len(block.cpu_ns) else _fastest_wall(block)


def latency_distribution(subject: SubjectSamples, clock: Clock) -> Spread:
    """Summarise single inferences, the warm-up left out; quantiles by linear interpolation."""
    blocks = [block for session in subject.sessions for block in session.rounds]
    values = np.concatenate([block.wall_ns if clock == "wall" else block.cpu_ns for block in blocks])
    quantiles = {
        name: float(np.quantile(values, share)) if len(values) * (1 - share) >= 1 else None
        for name, share in _QUANTILES.items()
    }
    return Spread(inferences=len(values), min=float(values.min()), mean=float(values.mean()), **quantiles)


def preempted_share(subject: SubjectSamples) -> float:
    """Return the share of blocks (0 to 1) during which the scheduler took the CPU away at least once."""
    blocks = [block for session in subject.sessions for block in session.rounds]
    return sum(block.preemptions > 0 for block in blocks) / len(blocks)


def hodges_lehmann(values: NDArray[np.float64]) -> float:
    """Return the median of the means of all pairs of values, each value paired with itself too.

    O(n^2) for few values; for more by bisection on their order, O(n log n), exact to 1e-9 of their range.
    """
    if len(values) <= FEW:
        first, second = _pairs(len(values))
        return float(np.median(values[first] + values[second]) / 2)
    ordered = np.sort(values)
    low, high = float(ordered[0]), float(ordered[-1])
    half, places = len(values) * (len(values) + 1) / 4, np.arange(len(values))
    tolerance = 1e-9 * (high - low)
    while high - low > tolerance:
        middle = (low + high) / 2
        below = np.searchsorted(ordered, 2 * middle - ordered, side="right") - places
        low, high = (low, middle) if np.maximum(below, 0).sum() >= half else (middle, high)
    return (low + high) / 2


@lru_cache(maxsize=4)
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first, second = np.triu_indices(count)
    return first, second


def bootstrap(
    series: Series, estimate: Callable[[NDArray[np.float64]], float], *, replicates: int, seed: int
) -> NDArray[np.float64]:
    """Return `estimate` over resamples: sessions with replacement, then as many rounds of each as a session has.

    Sessions of unequal length give their mean number of rounds, so that every resample is equally long.
    """
    rng = np.random.default_rng(seed)
    values = np.concatenate(series)
    lengths = np.array([len(session) for session in series])
    starts = np.cumsum(lengths) - lengths
    rounds = math.ceil(len(values) / len(series))
    results = np.empty(replicates)
    for replicate in range(replicates):
        chosen = rng.integers(len(series), size=(len(series), 1))
        within = (rng.random((len(series), rounds)) * lengths[chosen]).astype(int)
        results[replicate] = estimate(values[(starts[chosen] + within).ravel()])
    return results


@dataclass(frozen=True)
class LogRatio:
    """Estimate of log(baseline / other) over all rounds, with its standard error, floor included."""

    centre: float
    error: float

    def interval(self, plan: SamplingPlan) -> Interval:
        """Return the ratio with its interval at the plan's level, which holds at every look."""
        reach = plan_quantile(plan) * self.error
        low, high = math.exp(self.centre - reach), math.exp(self.centre + reach)
        return Interval(value=math.exp(self.centre), low=low, high=high, level=plan.level)


def plan_quantile(plan: SamplingPlan) -> float:
    """Return the standard normal's quantile for an error rate of (1 - level) / looks, two-sided."""
    return NormalDist().inv_cdf(1 - (1 - plan.level) / plan.looks / 2)


def log_ratio(baseline: Series, other: Series, *, plan: SamplingPlan, seed: int) -> LogRatio:
    """Return the log-ratio baseline / other, paired round by round.

    Swapping the two negates it, scaling both by one factor leaves it. The standard error is at least the plan's
    `error_floor`: a machine is never quieter than its own A/A comparisons.
    """
    logs = tuple(np.log(a) - np.log(b) for a, b in zip(baseline, other, strict=True))
    centre = hodges_lehmann(np.concatenate(logs))
    resampled = bootstrap(logs, hodges_lehmann, replicates=plan.replicates, seed=seed)
    return LogRatio(centre, max(float(resampled.std(ddof=1)), plan.error_floor))


def ratio_interval(baseline: Series, other: Series, *, plan: SamplingPlan, seed: int) -> Interval:
    """Return how many times as fast `other` is as `baseline` (baseline / other), paired round by round.

    The interval is exp(r +- z * standard error), with z for an error rate of (1 - level) / looks, and is stated at
    `plan.level`: it holds although sampling stopped when it was narrow enough.
    """
    return log_ratio(baseline, other, plan=plan, seed=seed).interval(plan)


def median_milliseconds(subject: SubjectSamples, clock: Clock, *, plan: SamplingPlan, seed: int) -> Interval:
    """Return the median over rounds of the round statistic, in ms, with the bootstrap's percentile interval.

    It holds for the load and frequency that the machine had then: compare files by their speedup, not by this.
    """
    series = tuple(session / NANOSECONDS_PER_MILLISECOND for session in round_statistics(subject, clock))
    resampled = bootstrap(series, lambda values: float(np.median(values)), replicates=plan.replicates, seed=seed)
    low, high = np.quantile(resampled, [(1 - plan.level) / 2, (1 + plan.level) / 2])
    return Interval(value=float(np.median(np.concatenate(series))), low=low, high=high, level=plan.level)


def paired_speedup(measurement: Measurement, index: int, clock: Clock) -> Interval | None:
    """Return how many times as fast subject `index` is as the baseline in its runtime; None for the baseline."""
    baseline = measurement.baseline(index)
    if baseline == index:
        return None
    pair = (round_statistics(measurement.subjects[each], clock) for each in (baseline, index))
    return ratio_interval(*pair, plan=measurement.plan, seed=measurement.seed)


def is_precise(subjects: Sequence[SubjectSamples], *, plan: SamplingPlan, seed: int) -> bool:
    """Say whether every speedup is known closely enough, on both clocks; without a pair, every subject's time."""
    first = {subject.compared_within: subject for subject in reversed(subjects)}
    pairs = [(first[each.compared_within], each) for each in subjects if first[each.compared_within] is not each]
    clocks: tuple[Clock, ...] = ("wall", "cpu")
    if not pairs:
        alone = (median_milliseconds(subject, clock, plan=plan, seed=seed) for subject in subjects for clock in clocks)
        return all(_narrow(interval, plan) for interval in alone)
    ratios = (
        ratio_interval(round_statistics(a, clock), round_statistics(b, clock), plan=plan, seed=seed)
        for a, b in pairs
        for clock in clocks
    )
    return all(_narrow(interval, plan) for interval in ratios)


def _narrow(interval: Interval, plan: SamplingPlan) -> bool:
    return interval.high - interval.low <= plan.width * interval.value


def contended(wall: Interval | None, cpu: Interval | None, *, threads: int, margin: float) -> bool:
    """Say whether wall and CPU ratio disagree by more than the margin and by more than their noise, with one thread.

    With one thread both count the same work, so that a disagreement is other load on the cores. With more, it is
    expected: CPU time adds up over threads.
    """
    if wall is None or cpu is None or threads != 1:
        return False
    apart = max(wall.low, cpu.low) > min(wall.high, cpu.high)
    return apart and abs(math.log(wall.value) - math.log(cpu.value)) > math.log1p(margin)


def report_timing(measurement: Measurement, index: int) -> Timing:
    """Return the row of the report for one subject."""
    subject, plan, seed = measurement.subjects[index], measurement.plan, measurement.seed
    wall, cpu = paired_speedup(measurement, index, "wall"), paired_speedup(measurement, index, "cpu")
    return Timing(
        runtime=subject.runtime,
        size=subject.size,
        threads=subject.threads,
        milliseconds=median_milliseconds(subject, "wall", plan=plan, seed=seed),
        cpu_milliseconds=median_milliseconds(subject, "cpu", plan=plan, seed=seed),
        speedup=wall,
        cpu_speedup=cpu,
        contended=contended(wall, cpu, threads=subject.threads, margin=plan.contention),
        time_scope=measurement.time_scope,
    )


def report_timings(measurement: Measurement) -> dict[tuple[str, Runtime, str], Timing]:
    """Return the row of every file, by digest, runtime and size; of a file that was measured twice the first."""
    found: dict[tuple[str, Runtime, str], Timing] = {}
    for index, subject in enumerate(measurement.subjects):
        key = (subject.digest, subject.runtime, subject.size)
        if key not in found:
            found[key] = report_timing(measurement, index)
    return found
