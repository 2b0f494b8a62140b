"""The time of each layer before and after, as inline SVG bars; colours come from the page's style sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report import numbers
from pipeline.report.drawing import chart, svg
from pipeline.report.drawing.placement import Axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.report.run.latency_rows import LayerLine

#: Pixels: width of the drawing and of the names in it, by whether there is room.
_SIZES = {True: (900, 230.0, 34), False: (360, 130.0, 18)}
_STEP = 34
_NUMBER = 66  # px beside the longest bar


def layer_times(lines: Sequence[LayerLine], *, wide: bool = True) -> Markup:
    """Draw two bars for each line, before and after; empty where no layer has a time."""
    longest = max((max(line.before_ms, line.after_ms) for line in lines), default=0.0)
    if longest <= 0:
        return Markup()
    width, start, letters = _SIZES[wide]
    scale = Axis(0, longest, start, width - _NUMBER, ())
    parts = [_bars(line, scale, letters, top=8 + _STEP * at) for at, line in enumerate(lines)]
    told = "; ".join(f"{line.name}: {line.before} {numbers.ARROW} {line.after}" for line in lines)
    return svg.picture((width, 12 + _STEP * len(lines)), "Milliseconds of each layer, before and after", told, parts)


def _bars(line: LayerLine, scale: Axis, letters: int, top: float) -> Markup:
    parts = [svg.text("label", scale.start - 10, top + 17, chart.shortened(line.name, letters), "end")]
    for kind, value, text, offset in (
        ("before", line.before_ms, line.before, 0),
        ("after", line.after_ms, line.after, 13),
    ):
        end = scale(value)
        parts.append(svg.rectangle(f"bar {kind}", scale.start, top + offset, max(1.0, end - scale.start), 11))
        parts.append(svg.text("tick", end + 6, top + offset + 10, text))
    return svg.group("layer", parts, f"{line.name} {line.operator}".rstrip())
