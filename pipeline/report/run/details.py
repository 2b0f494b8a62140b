"""Classes and samples behind the final test, as text: ready for Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report import numbers

if TYPE_CHECKING:
    from pipeline.results.run import ClassScore, FinalTest, TaskFacts

#: Classes that a report shows; JSON has all.
_SHOWN = 50

Line = tuple[str, str, str, str]


@dataclass(frozen=True)
class DetailTable:
    """Lines of name, original, result and change below a title; `note` says what is left out or how to read it."""

    title: str
    first: str
    lines: tuple[Line, ...]
    note: str = ""


def detail_tables(final: FinalTest, task: TaskFacts) -> tuple[DetailTable, ...]:
    """Return the table of classes and that of samples; only those that there are."""
    return (*_classes(final, task), *_samples(final, task))


def _classes(final: FinalTest, task: TaskFacts) -> tuple[DetailTable, ...]:
    metric = next((each for each in task.metrics if each.name == final.class_metric), None)
    if metric is None or not final.classes:
        return ()
    lost = sorted(final.classes, key=lambda each: _change(each) if metric.higher_is_better else -_change(each))
    lines = tuple(
        (
            each.name,
            numbers.score(each.original, metric) if each.original is not None else numbers.DASH,
            numbers.score(each.result, metric) if each.result is not None else numbers.DASH,
            numbers.score_change(None if None in {each.original, each.result} else _change(each), metric),
        )
        for each in lost[:_SHOWN]
    )
    more = len(lost) - len(lines)
    note = f"The other {more} classes, which lost least, are in report.json." if more else ""
    return (DetailTable(f"{numbers.metric_name(metric.name)} of each class", "Class", lines, note),)


def _samples(final: FinalTest, task: TaskFacts) -> tuple[DetailTable, ...]:
    if not final.worst:
        return ()
    metric = task.judged
    lines = tuple(
        (
            f"{task.sample} {each.place}",
            numbers.score(each.original, metric),
            numbers.score(each.result, metric),
            numbers.score_change(each.result - each.original, metric),
        )
        for each in final.worst
    )
    note = "Each scored by itself; the number is its place in the test split, from 0."
    return (DetailTable("What lost most", task.sample.capitalize(), lines, note),)


def _change(each: ClassScore) -> float:
    return 0.0 if each.original is None or each.result is None else each.result - each.original
