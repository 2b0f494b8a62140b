"""The drawing of an inspected file as inline SVG: one row for each layer in the order of computation.

A block in the colour of what the layer computes in, then its noise on a scale of decibels (a dot: the layer alone, a
ring: with all layers before it; further left is worse), then its share of the profiled time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report.drawing import svg
from pipeline.report.inspection import file_rows as rows
from pipeline.report.inspection.network_map import blocks, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.results.file_inspection import FileInspection, FileLayer

_ROW = 19.0
_HEAD = 40.0
_CHARACTER = 6.3  # px of a 12 px sans-serif, on average
#: The scale of noise in dB: beyond its ends a mark stands at the end.
LOWEST, HIGHEST = 0.0, 60.0
_TICKS = (0, 20, 40, 60)


@dataclass(frozen=True)
class _FileLayout:
    """Columns in pixels: names, operators, blocks of precision, noise, time."""

    width: float
    letters: int
    operator: float
    block: float
    time: float

    @property
    def operator_x(self) -> float:
        return 8 + self.letters * _CHARACTER + 8

    @property
    def block_x(self) -> float:
        return self.operator_x + self.operator

    @property
    def noise_x(self) -> float:
        return self.block_x + self.block + 18

    @property
    def noise(self) -> float:
        return self.time_x - 24 - self.noise_x

    @property
    def time_x(self) -> float:
        return self.width - self.time

    def at(self, decibels: float) -> float:
        inside = min(max(decibels, LOWEST), HIGHEST)
        return self.noise_x + self.noise * (inside - LOWEST) / (HIGHEST - LOWEST)


def precision_class(precision: str) -> str:
    """Return the class of the style sheet that colours a precision."""
    return f"p-{precision.replace('-', '')}"


def layer_map(inspection: FileInspection, *, wide: bool = True) -> Markup:
    """Draw all layers; empty for a file without any."""
    if not inspection.layers:
        return Markup()
    longest = max(len(layer.name) for layer in inspection.layers)
    layout = (
        _FileLayout(1080, min(40, longest), operator=130, block=112, time=200)
        if wide
        else _FileLayout(360, min(17, longest), operator=0, block=12, time=86)
    )
    height = _HEAD + _ROW * len(inspection.layers) + 8
    return svg.picture(
        (layout.width, height),
        "Layers by precision, noise and time",
        _description(inspection),
        _parts(inspection, layout),
        kind="map",
    )


def _description(inspection: FileInspection) -> str:
    """Tell the drawing to those who cannot see it."""
    most = "; ".join(f"{line.name}: {line.own} alone, {line.sqnr} with all" for line in rows.loses_most(inspection))
    figure = rows.figures(inspection)[0]
    told = f"Layers with most noise: {most}. " if most else ""
    return f"{figure.number} {figure.note} compute on integers. {told}The tables below list everything."


def _parts(inspection: FileInspection, layout: _FileLayout) -> Iterator[Markup]:
    layers = inspection.layers
    bottom = _HEAD + _ROW * len(layers)
    measured = any(layer.sqnr_db is not None for layer in layers)
    longest = max((layer.time_ns or 0.0 for layer in layers), default=0.0)
    yield svg.text("hint", 8, 16, "Layer")
    if layout.operator:
        yield svg.text("hint", layout.block_x, 16, "computed in")
    if measured:
        yield svg.text("hint", layout.noise_x, 16, "signal to noise, dB")
        for tick in _TICKS:
            yield svg.line("grid", layout.at(tick), _HEAD - 4, layout.at(tick), bottom)
            yield svg.text("tick", layout.at(tick), 31, str(tick), "middle")
    if longest:
        yield svg.text("hint", layout.time_x, 16, "time, profiled" if layout.operator else "time")
    for row, (above, below) in enumerate(pairwise(blocks([layer.name for layer in layers])), 1):
        if above != below:
            y = _HEAD + _ROW * row
            yield svg.line("grid", 8, y, layout.width - 6, y)
    for row, layer in enumerate(layers):
        shapes = _row(layer, inspection, layout, _HEAD + _ROW * row, longest)
        yield svg.group("row", shapes, rows.tooltip_lines(layer, inspection))


def _row(
    layer: FileLayer, inspection: FileInspection, layout: _FileLayout, top: float, longest: float
) -> Iterator[Markup]:
    base, middle = top + 14, top + _ROW / 2
    yield svg.rectangle("hit", 4, top, layout.width - 8, _ROW)
    yield svg.text("name", 8, base, shortened(layer.name, layout.letters))
    yield svg.rectangle(f"block {precision_class(layer.computed_in)}", layout.block_x, top + 3, 12, _ROW - 6)
    if layout.operator:
        yield svg.text("hint", layout.operator_x, base, shortened(layer.operator, 20))
        yield svg.text("name", layout.block_x + 18, base, shortened(rows.computed(layer), 16))
    if layer.sqnr_db is not None:
        yield svg.circle("ring", layout.at(layer.sqnr_db), middle, 3.4)
    if layer.own_sqnr_db is not None:
        yield svg.circle("dot", layout.at(layer.own_sqnr_db), middle, 3.4)
    if layer.time_ns is not None and longest:
        length = (layout.time - 56) * layer.time_ns / longest
        yield svg.rectangle("bar macs", layout.time_x, top + 5, length, 9)
        yield svg.text("tick", layout.time_x + length + 5, base, rows.format_share(inspection.time_share(layer)))
