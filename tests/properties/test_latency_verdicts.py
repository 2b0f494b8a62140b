"""Verdicts on any series: mirrored when sides swap, blind to scale and order, and never bolder by noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.measure.regression import decide_verdict
from pipeline.measure.statistics import hodges_lehmann
from pipeline.results.measurement import Block, Conditions, Measurement, SamplingPlan, SessionSamples, SubjectSamples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.results.run import Interval

MARGIN = 0.03
PLAN = SamplingPlan(budget_s=1, replicates=30)
PLAIN_NS = 10**9
#: Logarithms of candidate / baseline, one list for each session; about the margin, so that every verdict occurs.
ratios = st.lists(st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=5), min_size=4, max_size=6)
#: What both sides share in a round: any load, from none to eight times as slow.
loads = st.lists(st.floats(0, 2), min_size=30, max_size=30)


def subject(label: str, sessions: Sequence[Sequence[float]], *, preemptions: int, order: int = 0) -> SubjectSamples:
    """Return a subject with one inference in each round, of so many nanoseconds on both clocks."""
    taken = tuple(
        SessionSamples(
            load_ns=1,
            first_ns=1,
            warmup=(),
            rounds=tuple(
                Block(order=order, wall_ns=(round(ns),), cpu_ns=(round(ns),), preemptions=preemptions) for ns in session
            ),
        )
        for session in sessions
    )
    return SubjectSamples(
        label=label,
        runtime="onnxruntime",
        runtime_version="1",
        options={},
        digest=label,
        input_shapes={},
        threads=1,
        fingerprint={},
        sessions=taken,
    )


def measurement(
    logs: Sequence[Sequence[float]],
    shared: Sequence[float] | None = None,
    *,
    scale: float = 1.0,
    swapped: bool = False,
    order: int = 0,
) -> Measurement:
    """Return two subjects, whose rounds have these log-ratios and share this load."""
    left = iter(shared or [0.0] * sum(map(len, logs)))
    base = [[scale * PLAIN_NS * float(np.exp(next(left))) for _ in session] for session in logs]
    other = [[ns * float(np.exp(log)) for ns, log in zip(*each, strict=True)] for each in zip(base, logs, strict=True)]
    sides = (subject("a", base, preemptions=1, order=order), subject("b", other, preemptions=0, order=1 - order))
    return Measurement(
        created="",
        batch=1,
        seed=3,
        in_force={},
        plan=PLAN,
        seconds=1,
        stopped="budget",
        conditions=(Conditions(),) * len(logs),
        subjects=sides[::-1] if swapped else sides,
    )


def bounds(found: Interval | None) -> tuple[float, float, float]:
    """Return value, low and high."""
    assert found is not None
    return found.value, found.low, found.high


@settings(max_examples=60, deadline=None)
@given(logs=ratios, shared=loads)
def test_swapping_the_sides_mirrors_the_verdict(logs: list[list[float]], shared: list[float]) -> None:
    """The ratio inverts with its bounds; a FAIL one way is a PASS the other way round."""
    there = decide_verdict(measurement(logs, shared), margin=MARGIN)
    back = decide_verdict(measurement(logs, shared, swapped=True), margin=MARGIN)
    value, low, high = bounds(back.ratio)
    assert bounds(there.ratio) == pytest.approx((1 / value, 1 / high, 1 / low), rel=1e-7)
    for one, other in ((there, back), (back, there)):
        assert one.verdict != "FAIL" or other.verdict == "PASS"


@settings(max_examples=30, deadline=None)
@given(shared=loads, sessions=st.integers(4, 6))
def test_equal_sides_pass_both_ways(shared: list[float], sessions: int) -> None:
    """Whatever load there was, a file is not slower than itself."""
    logs = [[0.0] * 5] * sessions
    for swapped in (False, True):
        found = decide_verdict(measurement(logs, shared, swapped=swapped), margin=MARGIN)
        assert found.verdict == "PASS"
        assert bounds(found.ratio)[0] == pytest.approx(1, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(logs=ratios, shared=loads, scale=st.floats(0.01, 100))
def test_a_faster_or_slower_machine_changes_nothing(logs: list[list[float]], shared: list[float], scale: float) -> None:
    """One factor on both sides leaves ratio, interval and p-value."""
    plain, scaled = (decide_verdict(measurement(logs, shared, scale=each), margin=MARGIN) for each in (1.0, scale))
    assert bounds(plain.ratio) == pytest.approx(bounds(scaled.ratio), rel=1e-6)
    assert plain.p_value == pytest.approx(scaled.p_value, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(logs=ratios, shared=loads)
def test_shared_load_changes_nothing(logs: list[list[float]], shared: list[float]) -> None:
    """What acts on both sides of a round alike cancels."""
    quiet, busy = (
        decide_verdict(measurement(logs), margin=MARGIN),
        decide_verdict(measurement(logs, shared), margin=MARGIN),
    )
    assert bounds(quiet.ratio) == pytest.approx(bounds(busy.ratio), rel=1e-7)


@settings(max_examples=30, deadline=None)
@given(logs=ratios)
def test_place_in_a_round_does_not_count(logs: list[list[float]]) -> None:
    """Who came first is kept, and no part of the verdict."""
    first, second = (decide_verdict(measurement(logs, order=order), margin=MARGIN) for order in (0, 1))
    assert first == second


@settings(max_examples=60, deadline=None)
@given(logs=ratios, factor=st.floats(1.01, 20))
def test_more_noise_makes_no_fail(logs: list[list[float]], factor: float) -> None:
    """Deviations that grow around the same estimate never turn a verdict into FAIL, and widen the interval."""
    centre = hodges_lehmann(np.concatenate([np.array(session) for session in logs]))
    noisier = [[centre + factor * (log - centre) for log in session] for session in logs]
    calm, noisy = decide_verdict(measurement(logs), margin=MARGIN), decide_verdict(measurement(noisier), margin=MARGIN)
    assert calm.verdict == "FAIL" or noisy.verdict != "FAIL"
    assert calm.verdict == "PASS" or noisy.verdict != "PASS"
    assert (noisy.error or 0) >= (calm.error or 0) - 1e-7


@settings(max_examples=40, deadline=None)
@given(logs=ratios, slower=st.floats(0.0, 0.5))
def test_a_slower_candidate_never_looks_better(logs: list[list[float]], slower: float) -> None:
    """Slowing the candidate down in every round moves the verdict from PASS over INCONCLUSIVE to FAIL, never back."""
    rank = {"PASS": 0, "INCONCLUSIVE": 1, "FAIL": 2}
    before = decide_verdict(measurement(logs), margin=MARGIN)
    after = decide_verdict(measurement([[log + slower for log in session] for session in logs]), margin=MARGIN)
    assert rank[after.verdict] >= rank[before.verdict]
    assert (after.p_value or 0) <= (before.p_value or 0) + 1e-6


@settings(max_examples=30, deadline=None)
@given(logs=ratios, margin=st.floats(0.0, 0.2))
def test_a_wider_margin_is_never_stricter(logs: list[list[float]], margin: float) -> None:
    """Who passes at a margin passes at every larger one; who fails at one fails at every smaller one."""
    narrow, wide = (decide_verdict(measurement(logs), margin=each) for each in (margin, margin + 0.05))
    assert narrow.verdict != "PASS" or wide.verdict == "PASS"
    assert wide.verdict != "FAIL" or narrow.verdict == "FAIL"
