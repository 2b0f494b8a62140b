"""What one stage gained and what it lost, in words, and the row that the run is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.core.nearness import BACK, FAR
from pipeline.core.runtimes import last_readable
from pipeline.report import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.core.stage import Target
    from pipeline.results.run import Effect, Row, RunReport, Timing, What

Tone = Literal["better", "worse", "unsure", "nothing", "plain"]

_FIGURES = {"speed", "size", "gzip", "accuracy", "score"}
_NOTHING = {"nothing", "untimed", "no gain"}
#: An effect in two or three words, where it is one that is marked.
_MARKED: dict[What, Callable[[Effect], str]] = {
    "speed": lambda each: f"{each.change:.2f}x faster" if each.change > 1 else f"{1 / each.change:.2f}x slower",
    "size": lambda each: f"{abs(each.change):.0%} {'smaller' if each.change < 0 else 'larger'}",
    "accuracy": lambda each: f"{100 * each.change:+.2f} points",
    "score": lambda each: f"{each.change:+.3g} {each.unit}" if each.unit else f"{100 * each.change:+.2f} points",
    "gzip": lambda each: f"{abs(each.change):.0%} {'smaller' if each.change < 0 else 'larger'} with gzip",
    "zeros": lambda each: f"{each.change:.1%} zeros",
    "nothing": lambda _: "bought nothing",
    "untimed": lambda _: "bought nothing",
    "no gain": lambda _: "skipped: no gain",
    "far": lambda _: FAR,
    "back in float": lambda _: BACK,
}
#: What stands beside these words, or the effect where it has none.
_BESIDE: dict[What, Callable[[Effect], str]] = {
    "untimed": lambda _: "not timed against the stage before",
    "no gain": lambda each: each.why,
    "far": lambda each: each.why,
    "back in float": lambda each: f"{' and '.join(each.names)} (in fewer bits: {each.why})",
    "nodes in float": lambda each: f"with {numbers.plural(each.count, 'node')} in float",
    "not quantized": lambda _: "nothing is in fewer bits",
    "not smaller": lambda _: "no smaller than in float",
    "same file": lambda _: "the same file",
    "bundle": lambda _: "ships the files above",
    "measurement": lambda each: f"measured {each.count} files in {each.change:.0f} s",
}


@dataclass(frozen=True)
class Chip:
    """One gain or loss of a stage, in two or three words, or that it changed nothing or was skipped."""

    text: str
    tone: Tone


def chips(effects: Sequence[Effect]) -> tuple[tuple[Chip, ...], str]:
    """Return gains and costs in two or three words each, and what else there is to say."""
    found = [
        Chip(
            _MARKED[each.what](each).replace("-", numbers.MINUS),
            "nothing" if each.what in _NOTHING else each.judged or "plain",
        )
        for each in effects
        if each.what in _MARKED
    ]
    return tuple(found), ", ".join(_BESIDE[each.what](each) for each in effects if each.what in _BESIDE)


def effects_sentence(effects: Sequence[Effect]) -> str:
    """Write what a stage did as run.json has it: "1.90x faster, 71% smaller, for -0.31 points"."""
    parts, price = [], ""
    for each in effects:
        words = [table[each.what](each) for table in (_MARKED, _BESIDE) if each.what in table]
        if each.what in _FIGURES and each.judged == "worse":
            words[0], price = price + words[0], ""
        elif each.what in _FIGURES | _NOTHING:
            price = "for " if each.what in _FIGURES else "cost "
        parts.append(f"{words[0]} ({words[1]})" if each.what in _NOTHING and words[1:] else ": ".join(words))
    return ", ".join(parts)


def timing(row: Row, target: Target) -> Timing | None:
    """Return a row's latency in the target runtime with the target's number of threads, if it was taken."""
    found = (t for t in row.timings if t.runtime == target.runtime and t.threads == target.threads)
    return next(found, None)


def timed_target(report: RunReport) -> Target:
    """Return the target; if no file was timed in its runtime, with the first runtime in which one was."""
    found = [taken.runtime for row in report.rows for taken in row.timings]
    if not found or report.target.runtime in found:
        return report.target
    return report.target.model_copy(update={"runtime": found[0]})


def produced_rows(report: RunReport) -> tuple[Row, ...]:
    """Return the rows that have a file of their own: all but those of stages that only look or were skipped."""
    return tuple(row for row in report.rows if row.makes_file and not row.skipped)


def result(report: RunReport) -> Row:
    """Return the row of the file that the run is about: the last one that the target's runtime reads."""
    rows = produced_rows(report)
    return rows[last_readable((row.form for row in rows), report.target.runtime)]
