"""The drawings of an inspection as inline SVG: the map of all layers, and the strip of their MACs.

The map has one row for each layer, in forward order from top to bottom. Left of a row's axis lie the channels that the
layer reads, right of it those that it makes, coloured by group; hatched is what no pruning removes. A group's line on
the left joins its layers: a dot makes its channels, a ring reads them. Colours are classes k0 to k7 of the style sheet,
groups are classes g1, g2, ... by which the page shows one group alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report import numbers
from pipeline.report.drawing import svg
from pipeline.report.inspection import network_rows as rows
from pipeline.report.inspection.network_rails import rails

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.report.inspection.network_rails import Rail
    from pipeline.results.inspection import Inspection, Layer, Part

_ROW = 19.0
_HEAD = 34.0
_BAR = 12.0
_CHARACTER = 6.3  # px of a 12 px sans-serif, on average
_SHORTEST_BAR = 2.0
_STRIP_WIDTH = {True: 1080.0, False: 360.0}
_STRIP_BAR = 36.0
_TRUNK = 2  # makers from which on a group couples layers
_PATTERN = Markup(
    '<defs><pattern id="{}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="hatch-paper" width="5" height="5"/><rect class="hatch-line" width="1.6" height="5"/></pattern></defs>'
)


@dataclass(frozen=True)
class _NetworkLayout:
    """Columns of the map in pixels: lanes, names, kinds, bars on both sides of an axis, MACs."""

    width: float
    lane: float
    lanes: int
    letters: int
    kind: float
    number: float
    macs: float

    @property
    def name_x(self) -> float:
        return 14 + self.lanes * self.lane + 4

    @property
    def kind_x(self) -> float:
        return self.name_x + self.letters * _CHARACTER + 8

    @property
    def half(self) -> float:
        return (self.macs_x - 16 - self.kind_x - self.kind) / 2 - self.number

    @property
    def axis_x(self) -> float:
        """Where input and output sides meet."""
        return self.kind_x + self.kind + self.number + self.half

    @property
    def macs_x(self) -> float:
        return self.width - self.macs

    @property
    def macs_bar(self) -> float:
        return self.macs - 58


def layer_map(inspection: Inspection, *, wide: bool = True) -> Markup:
    """Draw all layers with what they read and make; empty for a network without layers."""
    if not inspection.layers:
        return Markup()
    placed = rails(inspection, most=12 if wide else 5)
    used = 1 + max((rail.lane for rail in placed.values() if rail.lane is not None), default=-1)
    longest = max(len(layer.name) for layer in inspection.layers)
    layout = (
        _NetworkLayout(1080, 11, used, min(36, longest), kind=132, number=34, macs=170)
        if wide
        else _NetworkLayout(360, 8, used, min(19, longest), kind=0, number=28, macs=4)
    )
    drawing = _Map(inspection, placed, layout, f"whole-{'wide' if wide else 'narrow'}")
    height = _HEAD + _ROW * len(inspection.layers) + 8
    return svg.picture(
        (layout.width, height), "Layers and groups", _description(inspection), drawing.parts(), kind="map"
    )


def _description(inspection: Inspection) -> str:
    """Tell the map to those who cannot see it."""
    coupled = [group for group in inspection.groups if len(group.makers) >= _TRUNK]
    told = "; ".join(f"{group.name}, {group.width} channels of {len(group.makers)} layers" for group in coupled)
    return (
        f"{len(inspection.layers)} layers in forward order and {len(inspection.groups)} groups of channels. Groups "
        f"that couple several layers: {told or 'none'}. The tables below list everything."
    )


@dataclass(frozen=True)
class _Map:
    inspection: Inspection
    rails: Mapping[str, Rail]
    layout: _NetworkLayout
    hatch: str

    def parts(self) -> Iterator[Markup]:
        """Yield everything, what lies below first."""
        layers = self.inspection.layers
        widest = max(max(layer.width_in, layer.width_out) for layer in layers) or 1
        busiest = max(layer.macs for layer in layers) or 1
        yield _PATTERN.format(self.hatch)
        yield from self._headings()
        standing = enumerate(pairwise(blocks([layer.name for layer in layers])), 1)
        yield from (self._separator(row) for row, (above, below) in standing if above != below)
        for row, layer in enumerate(layers):
            yield svg.group(
                "row", self._row(layer, _HEAD + _ROW * row, widest, busiest), rows.tooltip_lines(layer, self.inspection)
            )
        for name, rail in self.rails.items():
            if rail.lane is not None:
                yield svg.group(f"rail c {_classes(rail)}", self._rail(rail, rail.lane), self._about(name))

    def _headings(self) -> Iterator[Markup]:
        layout = self.layout
        yield svg.text("hint", layout.name_x, 20, "Layer")
        yield svg.text("hint", layout.axis_x - 8, 20, "reads \N{LEFTWARDS ARROW}", "end")
        yield svg.text("hint", layout.axis_x + 8, 20, "\N{RIGHTWARDS ARROW} makes")
        if layout.kind:
            yield svg.text("hint", layout.macs_x, 20, "MACs")
        bottom = _HEAD + _ROW * len(self.inspection.layers)
        yield svg.line("axis", layout.axis_x, _HEAD - 6, layout.axis_x, bottom)

    def _separator(self, row: int) -> Markup:
        y = _HEAD + _ROW * row
        return svg.line("grid", self.layout.name_x, y, self.layout.width - 6, y)

    def _row(self, layer: Layer, top: float, widest: int, busiest: int) -> Iterator[Markup]:
        layout, base = self.layout, top + 14
        yield svg.rectangle("hit", layout.name_x - 2, top, layout.width - layout.name_x - 4, _ROW)
        yield svg.text("name", layout.name_x, base, shortened(layer.name, layout.letters))
        if layout.kind:
            yield svg.text("hint", layout.kind_x, base, shortened(layer.kind, 21))
            yield svg.rectangle("bar macs", layout.macs_x, top + 5, layout.macs_bar * layer.macs / busiest, 9)
            end = layout.macs_x + layout.macs_bar * layer.macs / busiest
            yield svg.text("tick", end + 5, base, rows.share(layer.macs, self.inspection.macs))
        for parts, total, direction in ((layer.reads, layer.width_in, -1), (layer.makes, layer.width_out, 1)):
            length = max(_SHORTEST_BAR, self.layout.half * (total / widest) ** 0.5) if total else 0.0
            yield from self._side(parts, total, direction * length, top + (_ROW - _BAR) / 2)
            if total:
                x = layout.axis_x + direction * (length + 6)
                yield svg.text("tick", x, base, str(total), "end" if direction < 0 else "start")

    def _side(self, parts: Sequence[Part], total: int, length: float, top: float) -> Iterator[Markup]:
        """Yield the channels of one side from the axis outwards; a negative length goes to the left."""
        done = 0
        for part in parts:
            start, done = done, done + part.channels
            ends = sorted(self.layout.axis_x + length * each / total for each in (start, done))
            yield box(part, self.rails, (ends[0], top, ends[1] - ends[0], _BAR), self.hatch)

    def _rail(self, rail: Rail, lane: int) -> Iterator[Markup]:
        x = 14 + lane * self.layout.lane
        middle = _HEAD + _ROW / 2
        span = rail.span
        trunk = " trunk" if len(span.makers) >= _TRUNK else ""
        yield svg.line(f"lane{trunk}", x, middle + _ROW * span.first, x, middle + _ROW * span.last)
        radius = min(3.6, self.layout.lane / 2.4)
        for row in span.readers:
            if row not in span.makers:
                yield svg.circle("ring", x, middle + _ROW * row, radius - 0.6)
        for row in span.makers:
            yield svg.circle("dot", x, middle + _ROW * row, radius)

    def _about(self, name: str) -> str:
        group = next(group for group in self.inspection.groups if group.name == name)
        return (
            f"group {name}: {numbers.plural(group.width, 'channel')}\n"
            f"made by {', '.join(rows.condensed(group.makers)) or 'nothing drawn'}\n"
            f"read by {', '.join(rows.condensed(group.readers)) or 'nothing'}\n"
            f"in {rows.share(group.macs, self.inspection.macs)} of the MACs; "
            f"{numbers.count(group.parameters)} parameters"
        )


def box(part: Part, placed: Mapping[str, Rail], place: tuple[float, float, float, float], hatch: str) -> Markup:
    """Draw some channels in the colour of their group, or hatched; `place` is x, y, width and height."""
    rail = placed.get(part.group) if part.group else None
    if rail is not None:
        return svg.rectangle(f"c {_classes(rail)}", *place)
    frame = Markup('<rect class="c whole" fill="url(#{})" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"></rect>')
    return frame.format(hatch, *place)


def mac_strip(inspection: Inspection, *, wide: bool = True) -> Markup:
    """Draw the MACs of all layers side by side, in the colours of what they make; empty for a network without MACs."""
    if not inspection.macs:
        return Markup()
    placed = rails(inspection, most=0)
    hatch = f"strip-{'wide' if wide else 'narrow'}"
    width, x = _STRIP_WIDTH[wide], 0.0
    parts, spans = [_PATTERN.format(hatch)], dict[str, list[float]]()
    for layer in inspection.layers:
        if layer.macs:
            length = width * layer.macs / inspection.macs
            parts.append(
                svg.group("row", _column(layer, x, length, placed, hatch), rows.tooltip_lines(layer, inspection))
            )
            spans.setdefault(layer.name.partition(".")[0], [x, x])[1] = x + length
            x += length
    parts += _strip_names(spans)
    return svg.picture((width, _STRIP_BAR + 22), "MACs by layer", _told_macs(inspection), parts, kind="strip")


def _column(layer: Layer, x: float, width: float, placed: Mapping[str, Rail], hatch: str) -> Iterator[Markup]:
    """Yield one layer's share of the strip; a product of computed tensors, which makes no stored channels, is grey."""
    yield svg.rectangle("neutral", x, 0, width, _STRIP_BAR)
    top = 0.0
    for part in layer.makes:
        height = _STRIP_BAR * part.channels / layer.width_out
        yield box(part, placed, (x, top, width, height), hatch)
        top += height
    yield svg.line("edge", x, 0, x, _STRIP_BAR)


def _strip_names(spans: Mapping[str, Sequence[float]]) -> Iterator[Markup]:
    """Yield the names of the outermost modules below their layers, where they have room."""
    for name, (start, end) in spans.items():
        if len(name) * _CHARACTER < end - start - 4:
            yield svg.text("tick", (start + end) / 2, _STRIP_BAR + 16, name, "middle")
            yield svg.line("axis", start + 1, _STRIP_BAR + 3, end - 1, _STRIP_BAR + 3)


def _told_macs(inspection: Inspection) -> str:
    most = sorted(inspection.layers, key=lambda layer: -layer.macs)[:5]
    told = "; ".join(f"{layer.name}: {rows.share(layer.macs, inspection.macs)}" for layer in most)
    return f"Layers with the most MACs: {told}"


def _classes(rail: Rail) -> str:
    """Return a group's classes: its number, its colour, and whether one layer alone makes its channels."""
    alone = "" if len(rail.span.makers) >= _TRUNK else " alone"
    return f"g{rail.number} k{rail.colour}{alone}"


def blocks(names: Sequence[str]) -> list[str]:
    """Return the repeated block that each layer stands in: its name up to a number.

    The last number in the name, or the first where blocks would be hardly more than single layers; else the outermost
    module.
    """
    for pattern in (r"(.*\.\d+)\.", r"(.*?\.\d+)\."):
        found = [each[1] if (each := re.match(pattern, name)) else name.partition(".")[0] for name in names]
        if 2 * sum(one != other for one, other in pairwise(found)) <= len(names):
            return found
    return [name.partition(".")[0] for name in names]


def shortened(text: str, letters: int) -> str:
    """Cut a text in its middle where it has more letters than there is room for."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 3
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (letters - 1 - head) :]}"
