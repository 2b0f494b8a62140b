"""What drawings of files as points share: a grid with its numbers, and labels that cover nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report import numbers
from pipeline.report.drawing import svg
from pipeline.report.drawing.placement import LINE_HEIGHT, Box, Mark, gathered, place_labels, tick_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.report.drawing.placement import Axis

_GATHER = 8.0  # px: points closer than this share one label
_LABEL_LETTERS = 22
_LEADER = 16.0  # px between a point and its label from which on a line joins them


@dataclass(frozen=True)
class NamedPoint:
    """A point in pixels, its name, and the number that stands for the name where there is no room.

    A `strong` point keeps its name in any case. `bar` is the box of its vertical whisker.
    """

    x: float
    y: float
    name: str
    number: str
    bar: Box
    strong: bool = False


def shortened(text: str, letters: int = _LABEL_LETTERS) -> str:
    """Cut a label where it would need too much room."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def grid(across: Axis, up: Axis, frame: Box) -> Markup:
    """Draw both axes: faint lines at the ticks, and their numbers."""
    parts = []
    for tick in up.ticks:
        parts.append(svg.line("grid", frame.left, up(tick), frame.right, up(tick)))
        parts.append(svg.text("tick", frame.left - 8, up(tick) + 4, _tick(tick, up), "end"))
    for tick in across.ticks:
        parts.append(svg.line("grid", across(tick), frame.top, across(tick), frame.bottom))
        parts.append(svg.text("tick", across(tick), frame.bottom + 18, _tick(tick, across), "middle"))
    parts.append(svg.line("axis", frame.left, frame.bottom, frame.right, frame.bottom))
    return Markup("").join(parts)


def labels(points: Sequence[NamedPoint], frame: Box, light: Iterable[Box] = ()) -> list[Markup]:
    """Write each point's label where it covers nothing; points in one place share a label. The first choose first.

    Where the names do not fit beside each other, points that are not strong are labelled with their numbers alone.
    `light` are boxes that labels had better not cover.
    """
    strong = {point.name for point in points if point.strong}
    avoided = [*(point.bar for point in points), *light]
    named = gathered((Mark(point.x, point.y, (point.name,)) for point in points), _GATHER)
    boxes = place_labels(named, frame, avoided)
    if any(one.overlap(other) for one, other in combinations(boxes, 2)):
        short = (Mark(point.x, point.y, (point.name if point.strong else point.number,)) for point in points)
        named = [Mark(mark.x, mark.y, _one_line(mark.text, strong)) for mark in gathered(short, _GATHER)]
        boxes = place_labels(named, frame, avoided)
    return [_placed_label(mark, box, strong) for mark, box in zip(named, boxes, strict=True)]


def _tick(value: float, scale: Axis) -> str:
    return tick_text(value, scale.ticks[1] - scale.ticks[0]).replace("-", numbers.MINUS)


def _one_line(texts: tuple[str, ...], strong: set[str]) -> tuple[str, ...]:
    """Join the numbers of a shared label; names keep a line of their own."""
    figures = ", ".join(text for text in texts if text not in strong)
    return (*(text for text in texts if text in strong), *((figures,) if figures else ()))


def _placed_label(mark: Mark, box: Box, strong: set[str]) -> Markup:
    """Write one label, and a line to its point when it stands apart."""
    near_x, near_y = min(max(mark.x, box.left), box.right), min(max(mark.y, box.top), box.bottom)
    apart = max(abs(near_x - mark.x), abs(near_y - mark.y)) > _LEADER
    parts = [svg.line("leader", mark.x, mark.y, near_x, near_y)] if apart else []
    anchor, x = ("start", box.left) if box.left >= mark.x else ("end", box.right)
    if box.left < mark.x < box.right:
        anchor, x = "middle", (box.left + box.right) / 2
    for line, text in enumerate(mark.text):
        kind = "label strong" if text in strong else "label"
        parts.append(svg.text(kind, x, box.top + LINE_HEIGHT * (line + 1) - 4, text, anchor))
    return Markup("").join(parts)
