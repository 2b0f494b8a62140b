"""PASS, FAIL or INCONCLUSIVE: is the candidate slower than the baseline by more than the margin?

FAIL is a one-sided test of "slower by the margin at most", PASS one of "slower by at least the margin"; both at half of
1 - level, divided by the looks of the plan, so that stopping early costs nothing. FAIL is further divided by the number
of comparisons made together. Everything between the two is INCONCLUSIVE: not enough was measured to say either.

With one thread CPU time decides, since it is blind to other load; wall time is what a user waits for, and where the two
disagree beyond the margin and their own noise, the verdict is INCONCLUSIVE - unless nothing else was running: then the
file itself waits, and wall time decides. With more threads wall time decides.

Source: Schuirmann, "A comparison of the two one-sided tests procedure" (1987) for the three-way answer; Holm, "A simple
sequentially rejective multiple test procedure" (1979).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from pipeline.measure.statistics import LogRatio, contended, log_ratio, plan_quantile, preempted_share, round_statistics
from pipeline.results.comparison import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.measure.statistics import Clock
    from pipeline.results.comparison import Metric, ReasonCode, Verdict
    from pipeline.results.measurement import Measurement, SamplingPlan, SubjectSamples
    from pipeline.results.run import Interval

#: Below these shares of interrupted blocks and of stolen CPU time nothing else was running.
_QUIET_PREEMPTED = 0.10
_QUIET_STEAL = 0.02
#: Above this share of interrupted blocks the wall clock says nothing about the file.
MOST_PREEMPTED = 0.60
#: More than this between the two sides, or from the first to the last session, and the device was not the same.
FREQUENCY_MOVED = 0.05
TEMPERATURE_RISE_C = 10.0
FIXED_GOVERNORS = ("performance", "powersave", "userspace")
_POWER = 0.80
_QUIETER = "measure again on a quiet machine, or for longer"


@dataclass(frozen=True)
class Decision:
    """A verdict with its reasons, and the estimates that it rests on. `clock` is the one that decided."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    clock: Metric
    ratio: Interval | None = None
    wall: Interval | None = None
    cpu: Interval | None = None
    error: float | None = None
    p_value: float | None = None
    detectable: float | None = None


def decide_verdict(
    measurement: Measurement, *, margin: float, metric: Metric | None = None, baseline: int = 0, candidate: int = 1
) -> Decision:
    """Compare two subjects of a measurement. Without a metric the clock is chosen as said above."""
    a, b = measurement.subjects[baseline], measurement.subjects[candidate]
    plan, threads = measurement.plan, max(a.threads, b.threads)
    clock: Clock = "wall" if metric == "wall" or (metric is None and threads > 1) else "cpu"
    if len(a.sessions) < plan.min_sessions:
        return Decision("INCONCLUSIVE", (_too_short(measurement, len(a.sessions)),), clock)
    logs: dict[Clock, LogRatio] = {
        each: log_ratio(round_statistics(b, each), round_statistics(a, each), plan=plan, seed=measurement.seed)
        for each in ("wall", "cpu")
    }
    wall, cpu = logs["wall"].interval(plan), logs["cpu"].interval(plan)
    doubts: list[Reason] = []
    if contended(wall, cpu, threads=threads, margin=margin):
        text = f"wall time says {wall.value - 1:+.1%}, CPU time {cpu.value - 1:+.1%}"
        if _quiet(measurement, (a, b)):
            clock = "wall" if metric is None else clock
            doubts.append(Reason(code="waiting", text=f"{text}, with nothing else running: the file itself waits"))
        else:
            doubts.append(Reason(code="contended", text=f"{text}: other programs ran on the cores; {_QUIETER}"))
    doubts += _disturbed(measurement, a, b, wall_only=clock == "wall")
    verdict, reason = _judge(logs[clock], plan, margin)
    if any(each.code != "waiting" for each in doubts):
        verdict = "INCONCLUSIVE"
    return Decision(
        verdict=verdict,
        reasons=(reason, *doubts),
        clock=clock,
        ratio=wall if clock == "wall" else cpu,
        wall=wall,
        cpu=cpu,
        error=logs[clock].error,
        p_value=p_value(logs[clock], plan, margin),
        detectable=_detectable(logs[clock], plan, margin),
    )


def p_value(found: LogRatio, plan: SamplingPlan, margin: float) -> float:
    """Return the p-value of "slower by the margin at most", multiplied by the looks that were allowed."""
    above = (found.centre - math.log1p(margin)) / found.error
    return min(1.0, plan.looks * (1 - NormalDist().cdf(above)))


def holm_correction(p_values: Sequence[float], rate: float) -> list[bool]:
    """Say which of several tests are significant at `rate` together: in order of p, each against what is left."""
    significant = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > rate / (len(p_values) - rank):
            break
        significant[index] = True
    return significant


def _judge(found: LogRatio, plan: SamplingPlan, margin: float) -> tuple[Verdict, Reason]:
    """Place the interval against the margin."""
    interval, limit = found.interval(plan), 1 + margin
    span = f"{interval.value - 1:+.1%} [{interval.low - 1:+.1%}, {interval.high - 1:+.1%}], margin {margin:.1%}"
    if p_value(found, plan, margin) <= (1 - plan.level) / 2 / plan.comparisons:
        return "FAIL", Reason(code="slower", text=span)
    if interval.high < limit:
        return "PASS", Reason(code="not slower", text=span)
    return "INCONCLUSIVE", Reason(code="budget", text=f"{span}: the interval includes the margin; {_QUIETER}")


def _too_short(measurement: Measurement, sessions: int) -> Reason:
    plan = measurement.plan
    needed = measurement.seconds / max(sessions, 1) * plan.min_sessions
    more = f"; try --budget {math.ceil(needed + 1)}s" if sessions else ""
    text = f"only {sessions} of {plan.min_sessions} sessions fitted into {plan.budget_s:g} s{more}"
    return Reason(code="budget", text=text)


def _detectable(found: LogRatio, plan: SamplingPlan, margin: float) -> float:
    reach = (plan_quantile(plan) + NormalDist().inv_cdf(_POWER)) * found.error
    return math.exp(math.log1p(margin) + reach) - 1


def _quiet(measurement: Measurement, sides: Sequence[SubjectSamples]) -> bool:
    steal = [each.steal for each in measurement.conditions if each.steal is not None]
    calm = not steal or float(np.median(steal)) < _QUIET_STEAL
    return calm and max(map(preempted_share, sides)) < _QUIET_PREEMPTED


def _disturbed(measurement: Measurement, a: SubjectSamples, b: SubjectSamples, *, wall_only: bool) -> list[Reason]:
    """Return what makes the two sides' conditions differ: heat, frequency, interruptions."""
    found: list[Reason] = []

    def doubt(code: ReasonCode, text: str) -> None:
        found.append(Reason(code=code, text=text))

    temperatures = [each.temperature_c for each in measurement.conditions if each.temperature_c is not None]
    if temperatures and max(temperatures) - temperatures[0] > TEMPERATURE_RISE_C:
        doubt("throttled", f"the device got warmer by {max(temperatures) - temperatures[0]:.0f} C; let it cool down")
    moved = _frequency_moved(a, b)
    fixed = all(side.fingerprint.get("governor") in FIXED_GOVERNORS for side in (a, b))
    if moved > FREQUENCY_MOVED and not fixed:
        doubt("throttled", f"the clock frequency differed by {moved:.0%} between the sides; fix the governor")
    share = max(preempted_share(a), preempted_share(b))
    if wall_only and share > MOST_PREEMPTED:
        doubt("preempted", f"{share:.0%} of the blocks were interrupted and only wall time counts; {_QUIETER}")
    return found


def _frequency_moved(a: SubjectSamples, b: SubjectSamples) -> float:
    """Return the relative difference of the two sides' mean frequency; 0 where the kernel does not tell."""
    means = []
    for side in (a, b):
        read = [block.frequency_mhz for session in side.sessions for block in session.rounds if block.frequency_mhz]
        means.append(sum(read) / len(read) if read else 0.0)
    return abs(means[0] - means[1]) / max(means) if min(means) > 0 else 0.0
