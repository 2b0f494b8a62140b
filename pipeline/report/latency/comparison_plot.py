"""Drawings of a comparison: the ratio of every round, and how single inferences are distributed.

Colours, fonts and dark mode come from the page's style sheet by class name. The baseline is drawn thin and grey, the
candidate thick and orange, so that they differ without colour too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from pipeline.core.units import NANOSECONDS_PER_MILLISECOND
from pipeline.measure.statistics import round_statistics
from pipeline.report.drawing import svg
from pipeline.report.drawing.placement import Axis, Box, round_axis, tick_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.measure.statistics import Clock
    from pipeline.results.comparison import Comparison
    from pipeline.results.measurement import Measurement, SubjectSamples

#: The first drawing is as wide as the page, the others half of it.
ACROSS, WIDE, NARROW = 1180, 580, 360
_HEIGHT = 300
#: Of the rounds, these shares at either end may lie outside the drawing; of the inferences, those beyond the last.
_ROUNDS_SHOWN = (0.01, 0.99)
_INFERENCES_SHOWN = 0.99
STEPS = 200
CLOCKS: dict[Clock, str] = {"wall": "wall time", "cpu": "CPU time"}


def ratios(found: Comparison, measurement: Measurement, *, wide: bool = True) -> Markup:
    """Draw candidate over baseline, round by round, with the margin and the interval; empty without rounds."""
    clock: Clock = "wall" if found.metric == "wall" else "cpu"
    other: Clock = "cpu" if clock == "wall" else "wall"
    series = _percent(measurement, clock)
    if not series or found.ratio is None:
        return Markup()
    shown, beside = np.concatenate(series), np.concatenate(_percent(measurement, other))
    width = ACROSS if wide else NARROW
    frame = Box(52, 34, width - 14, _HEIGHT - 46)
    low, high = (float(each) for each in np.quantile(shown, _ROUNDS_SHOWN))
    spread = [100 * (value - 1) for value in (found.ratio.low, found.ratio.high)]
    limit = 100 * found.margin
    up = round_axis(min(low, 0.0, spread[0]), max(high, limit, spread[1]), frame.bottom, frame.top, most=8)
    across = round_axis(0, len(shown), frame.left, frame.right, most=8 if wide else 5)
    ends = np.cumsum([len(each) for each in series])[:-1]
    parts = [
        _grid(up, frame, "%"),
        svg.rectangle("band", frame.left, up(spread[1]), frame.right - frame.left, up(spread[0]) - up(spread[1])),
        *(svg.line("session", across(float(end)), frame.top, across(float(end)), frame.bottom) for end in ends),
        *_dots("dot beside", beside, across, up),
        *_dots("dot", shown, across, up),
        svg.line("axis", frame.left, up(0), frame.right, up(0)),
        svg.line("limit", frame.left, up(limit), frame.right, up(limit), f"margin {limit:g} %"),
        svg.text("tick", frame.right - 4, up(limit) - 5, f"margin {limit:g} %", "end"),
        *_across(across, frame, "Round; a vertical line begins a new session"),
        svg.text("strong", frame.left, 20, f"Slowdown in each round, {CLOCKS[clock]}"),
    ]
    outside = int(((shown < up.low) | (shown > up.high)).sum())
    words = (
        f"{len(shown)} rounds in {len(series)} sessions; median {np.median(shown):+.2f} %, interval of the estimate "
        f"{spread[0]:+.2f} to {spread[1]:+.2f} %, margin {limit:g} %; {outside} rounds are outside the drawing."
    )
    return svg.picture((width, _HEIGHT), "Ratio of every round", words, parts)


def distributions(measurement: Measurement, clock: Clock, *, wide: bool = True) -> Markup:
    """Draw which share of inferences took at most so long, for both files; empty without samples."""
    sides = [_milliseconds(subject, clock) for subject in measurement.subjects[:2]]
    if not all(len(side) for side in sides):
        return Markup()
    width = WIDE if wide else NARROW
    frame = Box(52, 34, width - 14, _HEIGHT - 46)
    last = max(float(np.quantile(side, _INFERENCES_SHOWN)) for side in sides)
    across = round_axis(min(float(side[0]) for side in sides), last, frame.left, frame.right, most=8 if wide else 5)
    up = round_axis(0, 100, frame.bottom, frame.top)
    beyond = [int((side > across.high).sum()) for side in sides]
    parts = [
        _grid(up, frame, "%"),
        *(_curve(f"curve {kind}", side, across, up) for kind, side in zip(("base", "candidate"), sides, strict=True)),
        *_across(across, frame, "Milliseconds of one inference"),
        svg.text("strong", frame.left, 20, f"Share of inferences that took at most this long, {CLOCKS[clock]}"),
        svg.text("tick", frame.right - 4, frame.bottom - 8, f"beyond: {beyond[0]} and {beyond[1]}", "end"),
    ]
    words = (
        f"Baseline median {np.median(sides[0]):.4g} ms, candidate median {np.median(sides[1]):.4g} ms; {beyond[0]} of "
        f"{len(sides[0])} and {beyond[1]} of {len(sides[1])} inferences took longer than is drawn."
    )
    return svg.picture((width, _HEIGHT), f"Distribution of {CLOCKS[clock]}", words, parts)


def _percent(measurement: Measurement, clock: Clock) -> list[NDArray[np.float64]]:
    """Return how much slower the candidate was in each round, in percent, by session."""
    if not measurement.subjects[0].sessions:
        return []
    a, b = (round_statistics(subject, clock) for subject in measurement.subjects[:2])
    return [100 * (theirs / mine - 1) for mine, theirs in zip(a, b, strict=True)]


def _milliseconds(subject: SubjectSamples, clock: Clock) -> NDArray[np.float64]:
    blocks = [block for session in subject.sessions for block in session.rounds]
    values = [each for block in blocks for each in (block.wall_ns if clock == "wall" else block.cpu_ns)]
    return np.sort(np.array(values, float)) / NANOSECONDS_PER_MILLISECOND


def _dots(kind: str, values: NDArray[np.float64], across: Axis, up: Axis) -> list[Markup]:
    inside = [(at, value) for at, value in enumerate(values) if up.low <= value <= up.high]
    return [svg.circle(kind, across(at + 0.5), up(float(value)), 2.2) for at, value in inside]


def _curve(kind: str, values: NDArray[np.float64], across: Axis, up: Axis) -> Markup:
    """Draw the share of values up to each place, at so many places that the eye sees no steps."""
    places = np.linspace(across.low, across.high, STEPS)
    shares = 100 * np.searchsorted(values, places, side="right") / len(values)
    way = " ".join(f"{across(float(x)):.1f},{up(float(y)):.1f}" for x, y in zip(places, shares, strict=True))
    return Markup('<polyline class="{}" points="{}"/>').format(kind, way)


def _grid(up: Axis, frame: Box, unit: str) -> Markup:
    step = up.ticks[1] - up.ticks[0]
    lines = [svg.line("grid", frame.left, up(tick), frame.right, up(tick)) for tick in up.ticks]
    names = [svg.text("tick", frame.left - 6, up(t) + 4, f"{tick_text(t, step)} {unit}", "end") for t in up.ticks]
    return Markup("").join([*lines, *names])


def _across(across: Axis, frame: Box, title: str) -> Sequence[Markup]:
    step = across.ticks[1] - across.ticks[0]
    names = [
        svg.text("tick", across(t), frame.bottom + 16, tick_text(t, step), "middle") for t in across.ticks if t >= 0
    ]
    return [*names, svg.text("tick", frame.right, frame.bottom + 34, title, "end")]
