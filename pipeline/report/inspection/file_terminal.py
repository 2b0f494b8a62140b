"""An inspected file in the terminal: headline, what loses most, what to look at, times, all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.bar import Bar
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.report import numbers
from pipeline.report.inspection import file_rows as rows
from pipeline.report.inspection.network_rows import condensed
from pipeline.report.inspection.network_terminal import BAR_WIDTH, figures_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from pipeline.results.file_inspection import FileInspection

#: Characters below which the layer table has fewer columns.
WIDE = 130
#: Names told with one finding, those that differ in their numbers as one; the JSON has all.
NAMED = 6
_STYLES = {"int8": "green", "int4": "green", "int16": "green", "weight-only": "magenta"}


def file_table(inspection: FileInspection, width: int) -> RenderableType:
    """Return what `secateur inspect FILE` prints. Text from the file is never read as rich's markup.

    `width` is the terminal's, in characters. Layers without weights, time or noise are counted, not shown.
    """
    parts: list[RenderableType] = [
        Text(inspection.file, style="bold"),
        Text(),
        figures_table(rows.figures(inspection)),
        Text(),
    ]
    if most := rows.loses_most(inspection):
        parts += [Text("Most noise", style="bold"), _most(most), Text(_NOISE, style="dim"), Text()]
    parts += _findings(inspection)
    if inspection.profile:
        parts += [Text("Time by operator", style="bold"), _times(inspection), Text()]
    parts += _layers(inspection, wide=width >= WIDE)
    parts += [Text(sentence, style="dim") for sentence in rows.about(inspection)]
    return Group(*parts)


_NOISE = (
    "Signal-to-quantization-noise ratio; 6 dB are one bit. Alone: the layer's inputs come from the float file. With "
    "all before it: the network is quantized up to and including this layer."
)


def _plain(*columns: tuple[str, bool]) -> Table:
    """Return an empty table; of each column its title and whether it holds numbers."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title, number in columns:
        found.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return found


def _most(lines: Sequence[rows.LayerLine]) -> Table:
    found = _plain(
        ("Layer", False), ("Operator", False), ("Alone", True), ("With all\nbefore it", True), ("Range", True)
    )
    for line in lines:
        found.add_row(Text(line.name, style="bold"), Text(line.operator), line.own, line.sqnr, line.range)
    return found


def _findings(inspection: FileInspection) -> list[RenderableType]:
    if not inspection.findings:
        return []
    listed = Table.grid(padding=(0, 2, 0, 0))
    listed.add_column(ratio=3, overflow="fold")
    listed.add_column(ratio=2, overflow="fold")
    for finding in inspection.findings:
        names = condensed(finding.layers)
        more = len(names) - NAMED
        told = ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
        listed.add_row(Text(finding.message), Text(told, style="dim"))
    return [Text("Worth a look", style="bold yellow"), listed, Text()]


def _times(inspection: FileInspection) -> Table:
    found = _plain(("Operator, as run", False), ("Nodes", True), ("Share", True), ("", False))
    for operator in inspection.profile.operators if inspection.profile else ():
        bar = Bar(1.0, 0.0, operator.share, width=BAR_WIDTH, color="cyan")
        found.add_row(Text(operator.operator), str(operator.nodes), rows.format_share(operator.share), bar)
    return found


def _layers(inspection: FileInspection, *, wide: bool) -> list[RenderableType]:
    shown = [line for line in rows.layer_lines(inspection) if _says_something(line)]
    left = len(inspection.layers) - len(shown)
    noise = inspection.against is not None
    columns = [("Layer", False), ("Operator", False), ("Computed in", False)]
    columns += [("Weights", False), ("Output range", True), ("Params", True)] if wide else []
    columns += [("MACs", True), ("Time", True)]
    found = _plain(*columns, *([("SQNR", True), ("Alone", True)] if noise else []))
    for line in shown:
        style = _STYLES.get(line.precision, "yellow" if rows.has_integers(inspection) else "")
        cells: list[str | Text] = [Text(line.name, style="bold"), Text(line.operator), Text(line.computed, style=style)]
        cells += [Text(line.weights), line.range, line.parameters] if wide else []
        cells += [line.macs, line.time]
        found.add_row(*cells, *([line.sqnr, line.own] if noise else []))
    rest = f"{numbers.plural(left, 'layer')} without weights, time or noise: --json lists them."
    return [Text("Layers", style="bold"), found, *([Text(rest, style="dim")] if left else []), Text()]


def _says_something(line: rows.LayerLine) -> bool:
    return any(text != numbers.DASH for text in (line.weights, line.macs, line.time, line.sqnr, line.parameters))
