"""Budgets are judged by interval and value, and rows say what they bought."""

from __future__ import annotations

from typing import Literal

import pytest

from pipeline.core.nearness import NEARNESS, Nearness
from pipeline.core.stage import Target
from pipeline.recipe import Budget
from pipeline.report.run.gains import chips, effects_sentence
from pipeline.results.measurement import Block, Measurement, SamplingPlan, SessionSamples, SubjectSamples
from pipeline.results.run import Interval, Row, Score, Timing
from pipeline.run.verdicts import budget_lines, in_vain, with_effects, with_timings

TARGET = Target()


def row(digest: str, *, accuracy: float = 0.9, size: int = 1000, kind: str = "prune") -> Row:
    """Return a row with an accuracy and a size."""
    found = Score(images=100, accuracy=accuracy, balanced_accuracy=accuracy, f1=accuracy)
    return Row(
        index=0,
        label=kind,
        kind=kind,
        form="onnx",
        digest=digest,
        artifact=digest,
        folder="",
        seconds=1,
        validation=found,
        size_bytes=size,
    )


def measured(milliseconds: dict[str, float]) -> Measurement:
    """Return a measurement without noise: each file always takes the same time."""
    subjects = []
    for digest, duration in milliseconds.items():
        nanoseconds = round(duration * 1e6)
        blocks = tuple(
            Block(order=0, wall_ns=(nanoseconds,) * 3, cpu_ns=(nanoseconds,) * 3, preemptions=0) for _ in range(5)
        )
        session = SessionSamples(load_ns=1, first_ns=1, warmup=(), rounds=blocks)
        subjects.append(
            SubjectSamples(
                label=digest,
                runtime="onnxruntime",
                runtime_version="1",
                options={},
                digest=digest,
                input_shapes={"image": (1, 1, 2, 2)},
                threads=1,
                fingerprint={},
                sessions=(session,) * 4,
            )
        )
    return Measurement(
        created="",
        batch=1,
        seed=0,
        in_force={},
        plan=SamplingPlan(budget_s=1),
        seconds=1,
        stopped="precise",
        conditions=(),
        subjects=tuple(subjects),
    )


def timing(low: float, value: float, high: float, *, contended: bool = False) -> Timing:
    """Return a timing with this speedup and as many milliseconds."""
    span = Interval(value=value, low=low, high=high)
    return Timing(runtime="onnxruntime", threads=1, milliseconds=span, speedup=span, contended=contended)


def test_rows_say_what_was_bought_and_what_it_cost() -> None:
    """Twice as fast and half as large for a point; then nothing, at the price of size."""
    rows = [row("a"), row("b", accuracy=0.89, size=500), row("c", accuracy=0.89, size=600), row("c", kind="simplify")]
    found = measured({"a": 2.0, "b": 1.0, "c": 1.0})
    judged = with_effects(with_timings(rows, found), found, TARGET)
    assert judged[1].verdict == "2.00x faster, 50% smaller, for -1.00 points"
    assert [(each.what, each.judged) for each in judged[1].effects] == [
        ("speed", "better"),
        ("size", "better"),
        ("accuracy", "worse"),
    ]
    assert [each.change for each in judged[1].effects] == pytest.approx([2, -0.5, -0.01])
    assert judged[2].verdict == "bought nothing, cost 20% larger"
    assert judged[3].verdict == "the same file"


SKIPPED = {"decision": "skipped", "runtime": "onnxruntime", "speedup": 0.98, "low": 0.96, "high": 1.01}
KEPT = {"decision": "kept", "runtime": "onnxruntime", "speedup": 1.5, "low": 1.4, "high": 1.6, "text": ""}


@pytest.mark.parametrize("timed", [True, False], ids=["measured", "not measured"])
def test_a_skipped_stage_says_why(*, timed: bool) -> None:
    """The figures that it was skipped for are its verdict, with a measurement as without."""
    skipped = row("a").model_copy(update={"changed": {"gain": {**SKIPPED, "text": "0.98x [0.96, 1.01]"}}})
    found = with_effects([row("a"), skipped], measured({"a": 2.0}) if timed else None, TARGET)
    assert skipped.skipped
    assert found[1].verdict == "skipped: no gain (0.98x [0.96, 1.01])"


@pytest.mark.parametrize("timed", [True, False], ids=["measured", "not measured"])
def test_a_stage_that_was_kept_for_its_gain_shows_that(*, timed: bool) -> None:
    """The speedup that decided is told, not one of a later measurement; other rows need one."""
    kept = row("b", size=500).model_copy(update={"changed": {"gain": KEPT}})
    rows = [row("a"), kept, row("c")]
    found = measured({"a": 2.0, "b": 1.0, "c": 1.0}) if timed else None
    judged = with_effects(with_timings(rows, found) if found else rows, found, TARGET)
    assert judged[1].verdict == "1.50x faster, 50% smaller"
    assert judged[2].verdict == ("bought nothing, cost 100% larger" if timed else "100% larger")


def test_without_a_measurement_rows_tell_score_and_size() -> None:
    """Neither needs a timing; of what changed in neither it is said that it was not timed, and nothing of its time."""
    masked = row("d", accuracy=0.91, size=504, kind="sparsify").model_copy(update={"gzip_bytes": 250})
    rows = [
        row("a"),
        row("b", accuracy=0.89, size=500),
        row("c", accuracy=0.93, size=500, kind="finetune"),
        row("c", accuracy=0.93, size=500, kind="export"),
        row("e", accuracy=0.93, size=502, kind="simplify"),
        row("f", accuracy=0.92, size=502, kind="share"),
        masked,
        row("g", accuracy=0.91, size=600, kind="export"),
        row("g", accuracy=0.91, size=600, kind="bundle").model_copy(update={"makes_file": False}),
    ]
    judged = with_effects(rows, None, TARGET)
    assert [each.verdict for each in judged] == [
        "",
        "50% smaller, for -1.00 points",
        "+4.00 points",
        "the same file",
        "bought nothing (not timed against the stage before)",
        "-1.00 points",
        "-1.00 points",
        "19% larger",
        "ships the files above",
    ]


def test_no_rows_have_no_verdicts() -> None:
    """A run that failed before its first row has nothing to say."""
    assert with_effects([], None, TARGET) == ()


def test_a_slower_file_is_said_to_be_slower() -> None:
    """int8 that is slower than what it was made of has bought its size only."""
    found = measured({"a": 1.0, "b": 1.5})
    judged = with_effects(with_timings([row("a"), row("b", size=300)], found), found, TARGET)
    assert judged[1].verdict == "70% smaller, for 1.50x slower"


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [(3.9, 4.0, 4.1, "cannot tell"), (4.1, 4.2, 4.3, "met"), (3.7, 3.8, 3.9, "missed")],
)
def test_latency_factor_is_judged_by_its_interval(low: float, value: float, high: float, verdict: str) -> None:
    """0.25x is met only when the whole interval of the speedup lies above 4, missed only when it lies below."""
    result = row("b").model_copy(update={"timings": (timing(low, value, high),)})
    (line,) = budget_lines(Budget.model_validate({"latency": "0.25x"}), row("a"), result, TARGET)
    assert line.verdict == verdict


def test_contention_cannot_be_told() -> None:
    """A clear number on a busy machine decides nothing, and a missing one neither."""
    busy = row("b").model_copy(update={"timings": (timing(8, 9, 10, contended=True),)})
    for result in (busy, row("b")):
        (line,) = budget_lines(Budget.model_validate({"latency": "0.25x"}), row("a"), result, TARGET)
        assert line.verdict == "cannot tell"


def test_milliseconds_accuracy_and_size() -> None:
    """Absolute limits compare with what was found; relative size with the original's."""
    result = row("b", accuracy=0.885, size=400).model_copy(update={"timings": (timing(1.9, 2.0, 2.1),)})
    budget = Budget.model_validate({"latency": "3ms", "accuracy_drop": "1pt", "size": "0.5x"})
    lines = budget_lines(budget, row("a"), result, TARGET)
    assert [line.verdict for line in lines] == ["met", "missed", "met"]
    assert lines[1].found == "1.50pt on validation"
    assert budget_lines(None, row("a"), result, TARGET) == ()


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize(
    ("decision", "in_float", "said"),
    [
        ("near", (), ""),
        ("kept", (), "far from the float file: 4.9 dB"),
        ("float", ("a", "b"), "back in float: a and b (in fewer bits: 4.9 dB)"),
    ],
)
def test_far_files_are_told_first(
    decision: Literal["near", "kept", "float"],
    in_float: tuple[str, ...],
    said: str,
    timed: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Whether anything was timed or not, and before what they bought."""
    text = "far from the float file: 4.9 dB"
    found = Nearness(decision=decision, decibels=4.9, seen=(), in_float=in_float, text=text)
    quantized = row("b", size=500).model_copy(update={"changed": {NEARNESS: found.model_dump(mode="json")}})
    _, judged = with_effects((row("a"), quantized), measured({"a": 2.0, "b": 1.0}) if timed else None, TARGET)
    assert judged.verdict == ", ".join(filter(None, (said, "50% smaller")))
    marked, rest = chips(judged.effects)
    tones = {"near": [], "kept": ["worse"], "float": ["unsure"]}[decision]
    assert [chip.tone for chip in marked] == [*tones, "better"]
    assert rest == said.partition(": ")[2]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize(
    ("size", "nodes", "said"),
    [
        (900, {"Conv": 2}, ""),
        (900, {}, "nothing is in fewer bits"),
        (1000, {"Conv": 2}, "no smaller than in float, with 3 nodes in float"),
        (1200, {"Conv": 2}, "20% larger, with 3 nodes in float"),
        (1000, {}, "no smaller than in float, nothing is in fewer bits"),
        (1000, None, "no smaller than in float"),  # of another precision than int8 nodes are not counted
    ],
)
def test_a_quantized_file_that_is_no_smaller_is_told(
    size: int,
    nodes: dict[str, int] | None,
    said: str,
    timed: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Whether anything was timed or not; a stage that makes no file in fewer bits is not asked."""
    found = Nearness(decision="near", decibels=40.0, seen=())
    changed = {NEARNESS: found.model_dump(mode="json")}
    if nodes is not None:
        changed |= {"quantized_nodes": nodes, "float_nodes": ["a", "b", "c"]}
    before, after = row("a"), row("b", size=size).model_copy(update={"changed": changed})
    assert effects_sentence(in_vain(before, after)) == said
    assert in_vain(before, row("b", size=size)) == ()
    _, judged = with_effects((before, after), measured({"a": 2.0, "b": 2.0}) if timed else None, TARGET)
    assert said.rpartition(", ")[2] in judged.verdict or timed
    assert ("nothing is in fewer bits" in judged.verdict) is (nodes == {})
    assert timed or judged.verdict == ", ".join(filter(None, ("10% smaller" if size == 900 else "", said)))
    assert [chip.tone for chip in chips(in_vain(before, after))[0]] == (["worse"] if size > 1010 else [])
