"""The report's drawings as inline SVG: score over latency, and size for each stage.

Colours, fonts and dark mode come from the page's style sheet by class name. Shapes differ as well as colours: the
original is a hollow square, the result a filled diamond.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.core.task import ACCURACY
from pipeline.report import numbers
from pipeline.report.drawing import chart, svg
from pipeline.report.drawing.chart import NamedPoint
from pipeline.report.drawing.placement import Axis, Box, round_axis
from pipeline.report.run import rows
from pipeline.report.run.gains import produced_rows, timed_target, timing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.task import MetricFacts
    from pipeline.results.run import Interval, Row, RunReport, Score

_WIDE = 660
_WIDE_SIZES = 500
_NARROW = 360
_HEIGHT = 400
_BAR_STEP = 34


@dataclass(frozen=True)
class PlottedFile:
    """A file that has both score and latency, and the number that stands for its name where there is no room."""

    number: str
    name: str
    score: Score
    milliseconds: Interval
    role: rows.Role = "stage"


@dataclass(frozen=True)
class _PlotPoint:
    """One file in the score-latency plot, in pixels; whiskers as (low, high)."""

    x: float
    y: float
    x_bounds: tuple[float, float]
    y_bounds: tuple[float, float]
    number: str
    name: str
    role: rows.Role


def score_over_latency(report: RunReport, *, wide: bool = True) -> Markup:
    """Draw the validation score over milliseconds in the target runtime; empty when fewer than two files have both.

    Whiskers: the latency's interval, and of an accuracy Wilson's 95 % interval. The last file that has both is drawn
    as the result, once the run has finished.
    """
    drawn = [
        PlottedFile(str(row.index), f"{row.index} {row.label}", row.validation, taken.milliseconds)
        for row in produced_rows(report)
        if row.validation and (taken := timing(row, timed_target(report)))
    ]
    if len(drawn) < 2:  # noqa: PLR2004 - one point compares nothing
        return Markup()
    end: rows.Role = "result" if report.status == "finished" else "stage"
    drawn[0], drawn[-1] = replace(drawn[0], role="original"), replace(drawn[-1], role=end)
    where = f"{rows.timed_place(report)}, batch {report.target.batch}"
    return files_over_latency(drawn, report.task.judged, where, wide=wide)


def files_over_latency(
    drawn: Sequence[PlottedFile], metric: MetricFacts, where: str, *, wide: bool = True, joined: Sequence[int] = ()
) -> Markup:
    """Draw the score of two files or more over their milliseconds `where` they were timed.

    A line joins those at the places `joined`; all, in their order, where there are none.
    """
    width = _WIDE if wide else _NARROW
    frame = Box(46, 34, width - 14, _HEIGHT - 46)
    across, up = _axes(drawn, metric, frame, most=8 if wide else 5)
    found = [_point(each, metric, across, up) for each in drawn]
    title = f"Validation {metric.name} over latency"
    parts = [
        chart.grid(across, up, frame),
        _titles(frame, f"Milliseconds, {where}", metric),
        _path([found[place] for place in joined] or found),
        *(_whiskers(point) for point in found),
        *(_symbol(point) for point in (*found[1:-1], found[0], found[-1])),
        *_labels(found, frame),
    ]
    return svg.picture((width, _HEIGHT), title, _description(drawn, metric), parts)


def sizes(report: RunReport, *, wide: bool = True) -> Markup:
    """Draw the bytes of every file as two bars, raw and compressed with gzip; empty when nothing was weighed."""
    largest = max((row.size_bytes or 0 for row in report.rows), default=0)
    if not largest:
        return Markup()
    width, start = (_WIDE_SIZES, 140.0) if wide else (_NARROW, 112.0)
    scale = Axis(0, largest, start, width - 66, ())
    parts = [_size_bars(row, scale, top=8 + _BAR_STEP * line) for line, row in enumerate(produced_rows(report))]
    told = "; ".join(f"{row.label}: {numbers.size(row.size_bytes)}" for row in produced_rows(report))
    return svg.picture((width, 12 + _BAR_STEP * len(produced_rows(report))), "Size on disk and with gzip", told, parts)


def _axes(drawn: Sequence[PlottedFile], metric: MetricFacts, frame: Box, most: int) -> tuple[Axis, Axis]:
    """Return the scale of milliseconds, from zero, and that of the score, around what was found."""
    spans = [_span(each.score, metric) for each in drawn]
    lowest, highest = min(low for _, low, _ in spans), max(high for _, _, high in spans)
    if lowest == highest:
        lowest, highest = lowest - 1e-3 * abs(lowest or 1), highest + 1e-3 * abs(highest or 1)
    slowest = max(max(each.milliseconds.value, each.milliseconds.high) for each in drawn)
    across = round_axis(0, slowest, frame.left, frame.right, most=most)
    return across, round_axis(lowest, highest, frame.bottom, frame.top, most=7)


def _span(score: Score, metric: MetricFacts) -> tuple[float, float, float]:
    """Return a score with its interval as it is drawn: shares in percent; only that of accuracy has an interval."""
    scale = 100 if metric.is_share else 1
    value = score.judged
    low, high = numbers.wilson(value, score.images) if metric.name == ACCURACY.name else (value, value)
    return scale * value, scale * low, scale * high


def _point(judged: PlottedFile, metric: MetricFacts, across: Axis, up: Axis) -> _PlotPoint:
    value, low, high = _span(judged.score, metric)
    taken = judged.milliseconds
    return _PlotPoint(
        x=across(taken.value),
        y=up(value),
        x_bounds=(across(taken.low), across(taken.high)),
        y_bounds=(up(low), up(high)),
        number=judged.number,
        name=chart.shortened(judged.name),
        role=judged.role,
    )


def _label(row: Row) -> str:
    return chart.shortened(f"{row.index} {row.label}")


def _description(drawn: Sequence[PlottedFile], metric: MetricFacts) -> str:
    """Tell the plot to those who cannot see it."""
    return "; ".join(
        f"{each.name}: {numbers.milliseconds(each.milliseconds.value)}, {numbers.score(each.score.judged, metric)}"
        for each in drawn
    )


def _titles(frame: Box, across: str, metric: MetricFacts) -> Markup:
    middle = (frame.left + frame.right) / 2
    return Markup("").join(
        [
            svg.text("name", 4, 16, f"Validation {metric.name}, {'%' if metric.is_share else metric.unit}"),
            svg.text("name", middle, frame.bottom + 38, across, "middle"),
            svg.text("hint", frame.left + 8, *_hint(frame, metric)),
        ]
    )


def _hint(frame: Box, metric: MetricFacts) -> tuple[float, str]:
    """Return where the hint at the better corner stands, and the hint."""
    if metric.higher_is_better:
        return frame.top + 16, "\N{NORTH WEST ARROW} better"
    return frame.bottom - 8, "\N{SOUTH WEST ARROW} better"


def _path(points: Sequence[_PlotPoint]) -> Markup:
    way = " ".join(f"{point.x:.1f},{point.y:.1f}" for point in points)
    return Markup('<polyline class="way" points="{}"/>').format(way)


def _whiskers(point: _PlotPoint) -> Markup:
    kind = f"whisker {point.role}"
    return svg.line(kind, point.x_bounds[0], point.y, point.x_bounds[1], point.y) + svg.line(
        kind, point.x, point.y_bounds[0], point.x, point.y_bounds[1]
    )


def _symbol(point: _PlotPoint) -> Markup:
    x, y = point.x, point.y
    if point.role == "original":
        frame = Markup('<rect class="symbol original" x="{:.1f}" y="{:.1f}" width="12" height="12"/>')
        return frame.format(x - 6, y - 6)
    if point.role == "result":
        frame = Markup('<path class="symbol result" d="M{0:.1f} {1:.1f}l8 8l-8 8l-8 -8z"/>')
        return frame.format(x, y - 8)
    return Markup('<circle class="symbol stage" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(x, y)


def _labels(points: Sequence[_PlotPoint], frame: Box) -> list[Markup]:
    named = [
        NamedPoint(
            point.x,
            point.y,
            point.name,
            point.number,
            Box(point.x - 2, point.y_bounds[1], point.x + 2, point.y_bounds[0]),
            strong=point.role != "stage",
        )
        for point in (points[-1], points[0], *points[1:-1])
    ]
    return chart.labels(named, frame)


def _size_bars(row: Row, scale: Axis, top: float) -> Markup:
    parts = [svg.text("label", scale.start - 10, top + 17, _label(row), "end")]
    for kind, number, offset in (("raw", row.size_bytes, 0), ("gzip", row.gzip_bytes, 13)):
        end = scale(number or 0)
        if number is not None:
            frame = Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="11"/>')
            parts.append(frame.format(kind, scale.start, top + offset, max(1.0, end - scale.start)))
        parts.append(svg.text("tick", end + 6, top + offset + 10, numbers.size(number)))
    return Markup("").join(parts)
