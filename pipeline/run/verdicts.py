"""What each stage changed in time, size and accuracy, and whether the budget holds: arithmetic on what was found."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.core.task import ACCURACY
from pipeline.core.units import Factor
from pipeline.measure.statistics import ratio_interval, report_timings, round_statistics
from pipeline.report.run.gains import effects_sentence
from pipeline.results.run import BudgetLine, Effect, Interval
from pipeline.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from pipeline.core.stage import Runtime, Target
    from pipeline.core.task import MetricFacts
    from pipeline.recipe import Budget
    from pipeline.results.measurement import Measurement
    from pipeline.results.run import BudgetVerdict, Row, What

    Judged = Literal["better", "worse"]

#: Smaller changes of size are not worth mentioning.
_SIZE_CHANGE = 0.01


def with_timings(rows: Sequence[Row], measurement: Measurement) -> tuple[Row, ...]:
    """Return the rows with the latency of their files in every runtime that was measured.

    Runtime `torch` times the network before its export, the others the exported file.
    """
    found = report_timings(measurement)
    return tuple(
        row.model_copy(
            update={"timings": tuple(each for (key, *_), each in found.items() if key in {row.digest, row.artifact})}
        )
        for row in rows
    )


def with_effects(
    rows: Sequence[Row], measurement: Measurement | None, target: Target, metric: MetricFacts = ACCURACY
) -> tuple[Row, ...]:
    """Return the rows with what each stage did against the row before it, and a sentence that says so.

    Without a measurement they say what became of score and size, and of time only where a stage was timed for its own
    sake (`on_no_gain`).
    """
    judged = list(rows[:1])
    for before, row in pairwise(rows):
        effects = _effects(before, row, measurement, target, metric)
        judged.append(row.model_copy(update={"effects": effects, "verdict": effects_sentence(effects)}))
    return tuple(judged)


def _effects(
    before: Row, row: Row, measurement: Measurement | None, target: Target, metric: MetricFacts
) -> tuple[Effect, ...]:
    if row.gain and row.gain.decision == "skipped":
        return (Effect(what="no gain", why=row.gain.text),)
    traded, vain = _traded(before, row, measurement, target, metric), in_vain(before, row)
    if measurement or any(effect.what == "size" for effect in traded):  # which says itself how large the file is
        vain = tuple(effect for effect in vain if effect.what not in {"size", "not smaller"})
    found = (*_far(row), *traded, *vain, *_zeros(row))
    return found if found or not row.makes_file else (Effect(what="untimed"),)


def _zeros(row: Row) -> tuple[Effect, ...]:
    """Return the share of weights that are zero, where a stage before the row, or its own, made masks."""
    found = row.sparsity if row.makes_file else None
    return (Effect(what="zeros", change=found.share),) if found else ()


def _gzip(before: Row, row: Row) -> tuple[Effect, ...]:
    """Return how the size with gzip changed where a stage made masks or clusters: on disk the file is as large."""
    made = (row.sparsity and not before.sparsity) or (row.sharing and not before.sharing)
    if not made or not before.gzip_bytes or not row.gzip_bytes:
        return ()
    change = row.gzip_bytes / before.gzip_bytes - 1
    if abs(change) <= _SIZE_CHANGE:
        return ()
    return (Effect(what="gzip", change=change, judged="better" if change < 0 else "worse"),)


def in_vain(before: Row, row: Row) -> tuple[Effect, ...]:
    """Return that a file in fewer bits is no smaller than its float file, or that nothing of it is; else nothing."""
    if row.nearness is None or not before.size_bytes or not row.size_bytes:
        return ()
    larger, empty = row.size_bytes / before.size_bytes - 1, row.changed.get("quantized_nodes") == {}
    stays = (Effect(what="not quantized"),) if empty else ()
    if larger < 0:
        return stays
    if not empty and (nodes := len(row.changed.get("float_nodes", ()))):
        stays = (Effect(what="nodes in float", count=nodes),)
    return (*(_size(before, row) or (Effect(what="not smaller"),)), *stays)


def _far(row: Row) -> tuple[Effect, ...]:
    """Return that a file is far from its float file, or what went back to float for it to be near."""
    found = row.nearness
    if found is None or found.decision == "near":
        return ()
    if found.decision == "kept":
        return (Effect(what="far", judged="worse", why=found.why),)
    return (Effect(what="back in float", judged="unsure", names=found.in_float, why=found.why),)


def _traded(
    before: Row, row: Row, measurement: Measurement | None, target: Target, metric: MetricFacts
) -> tuple[Effect, ...]:
    """Return what a stage bought for what, as far as that was measured."""
    if not row.makes_file:
        return _looked(row)
    if before.digest == row.digest:
        return (Effect(what="same file"),)
    if measurement:
        return _bought(before, row, _gained(row) or _paired(before, row, measurement, target.runtime), metric)
    found = _bought(before, row, _gained(row), metric)
    return tuple(effect for effect in found if effect.what != "untimed")  # nothing was: no row says that it bought none


def _looked(row: Row) -> tuple[Effect, ...]:
    """Return what a stage did that makes no file."""
    what = STAGES[row.kind].effect
    figures = {"change": row.changed.get("seconds", 0.0), "count": row.changed.get("files", 0)}
    return (Effect.model_validate({"what": what, **figures}),) if what else ()


def _bought(before: Row, row: Row, speedup: Interval | None, metric: MetricFacts) -> tuple[Effect, ...]:
    """Return what a stage bought, and behind it what it paid."""
    found = [*_size(before, row), *_gzip(before, row)]
    if speedup and (speedup.low > 1 or speedup.high < 1):
        judged: Judged = "better" if speedup.low > 1 else "worse"
        found.insert(0, Effect(what="speed", change=speedup.value, judged=judged))
    if before.validation and row.validation:
        change = row.validation.judged - before.validation.judged
        if change:
            better = (change > 0) == metric.higher_is_better
            what: What = "accuracy" if metric == ACCURACY else "score"
            found.append(Effect(what=what, change=change, judged="better" if better else "worse", unit=metric.unit))
    gains = [effect for effect in found if effect.judged == "better"]
    nothing = Effect(what="nothing" if speedup else "untimed")
    return (*(gains or [nothing]), *(effect for effect in found if effect.judged == "worse"))


def _size(before: Row, row: Row) -> tuple[Effect, ...]:
    """Return how the size changed, where that is worth a word."""
    if not before.size_bytes or not row.size_bytes:
        return ()
    change = row.size_bytes / before.size_bytes - 1
    if abs(change) <= _SIZE_CHANGE:
        return ()
    return (Effect(what="size", change=change, judged="better" if change < 0 else "worse"),)


def _gained(row: Row) -> Interval | None:
    """Return the speedup for which a stage was kept: it was taken of this pair of files alone."""
    gain = row.gain
    if gain is None or gain.speedup is None or gain.low is None or gain.high is None:
        return None
    return Interval(value=gain.speedup, low=gain.low, high=gain.high)


def _paired(before: Row, row: Row, measurement: Measurement, preferred: Runtime) -> Interval | None:
    """Return the speedup of a row over the one before: in the target's runtime, else in another that reads both."""
    shared = {timing.runtime for timing in before.timings} & {timing.runtime for timing in row.timings}
    if not shared:
        return None
    runtime = preferred if preferred in shared else min(shared)
    # At several sizes of inputs the first of them is told.
    subjects = {each.digest: each for each in reversed(measurement.subjects) if each.runtime == runtime}
    files = (each.artifact if runtime == "torch" else each.digest for each in (before, row))
    first, second = (round_statistics(subjects[file], "wall") for file in files)
    return ratio_interval(first, second, plan=measurement.plan, seed=measurement.seed)


def budget_lines(
    budget: Budget | None, original: Row, result: Row, target: Target, metric: MetricFacts = ACCURACY
) -> tuple[BudgetLine, ...]:
    """Return a line for each limit of the budget. Latency is judged by its interval, the others by their value."""
    if budget is None:
        return ()
    lines: list[BudgetLine] = []
    if budget.latency is not None:
        lines.append(_latency(budget.latency, result, target))
    if budget.drop is not None and original.validation and result.validation:
        first, last = original.validation.judged, result.validation.judged
        drop = (first - last) if metric.higher_is_better else (last - first)
        verdict: BudgetVerdict = "met" if budget.drop.holds(first, drop) else "missed"
        asked, found = f"at most {budget.drop}", f"{budget.drop.written(first, drop)} on validation"
        name: Literal["accuracy_drop", "score_drop"] = "score_drop" if budget.score_drop else "accuracy_drop"
        lines.append(BudgetLine(name=name, asked=asked, found=found, verdict=verdict))
    if budget.size is not None and original.size_bytes and result.size_bytes:
        relative = isinstance(budget.size, Factor)
        limit = budget.size * original.size_bytes if relative else float(budget.size)
        asked = f"at most {budget.size:g}x" if relative else f"at most {budget.size} bytes"
        found = f"{result.size_bytes / original.size_bytes:.2f}x" if relative else f"{result.size_bytes} bytes"
        verdict = "met" if result.size_bytes <= limit else "missed"
        lines.append(BudgetLine(name="size", asked=asked, found=found, verdict=verdict))
    return tuple(lines)


def _latency(asked: Factor | float, result: Row, target: Target) -> BudgetLine:
    wanted = (target.runtime, target.threads)
    timing = next((each for each in result.timings if (each.runtime, each.threads) == wanted), None)
    if isinstance(asked, Factor):
        text, unit = f"at most {asked:g}x", "x"
        speedup = timing.speedup if timing else None
        span = Interval(value=1 / speedup.value, low=1 / speedup.high, high=1 / speedup.low) if speedup else None
        limit = float(asked)
    else:
        text, unit = f"at most {asked * 1e3:g}ms", "ms"
        span, limit = (timing.milliseconds if timing else None), asked * 1e3
    if span is None:
        return BudgetLine(name="latency", asked=text, found="not measured", verdict="cannot tell")
    verdict: BudgetVerdict = "met" if span.high <= limit else "missed" if span.low > limit else "cannot tell"
    found = f"{span.value:.3g}{unit} [{span.low:.3g}, {span.high:.3g}] in {target.runtime}"
    if timing and timing.contended:
        verdict, found = "cannot tell", f"{found}, but wall and CPU time disagree: other programs ran on the cores"
    return BudgetLine(name="latency", asked=text, found=found, verdict=verdict)
