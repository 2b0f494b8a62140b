"""An inspection in the terminal: headline, groups with a bar for their MACs, what cannot be pruned and why."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from rich import box
from rich.bar import Bar
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.report.inspection import network_rows as rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from pipeline.results.inspection import Inspection

BAR_WIDTH = 10
_NAMES = (attrgetter("makers"), attrgetter("readers"))
#: Characters of the columns of the group table that hold numbers.
_NUMBERS = 50


def network_table(inspection: Inspection, width: int) -> RenderableType:
    """Return what `secateur inspect` prints. Text from the network is never read as rich's markup.

    `width` is the terminal's, in characters. Where names of layers have no room the table counts them.
    """
    parts: list[RenderableType] = [
        Text(inspection.name, style="bold"),
        Text(),
        figures_table(rows.figures(inspection)),
        Text(),
    ]
    if inspection.groups:
        parts += [_groups(inspection, names=width >= _width(inspection)), Text(_EXPLAINED, style="dim"), Text()]
    parts += _reasons("Unprunable", rows.reasons(inspection), "bold")
    parts += _reasons("Operators without a rule (please report them)", rows.without_rule(inspection), "bold yellow")
    return Group(*parts)


_EXPLAINED = (
    "A group's channels are removed together, in all its layers. Share: MACs that involve them; a MAC counts for each "
    "group that it involves. Halved saves: share of all MACs saved if half of this group's channels are removed."
)


def figures_table(figures: Iterable[rows.Figure]) -> Table:
    """Return the headline, a line for each figure."""
    found = Table.grid(padding=(0, 2, 0, 0))
    for figure in figures:
        found.add_row(Text(figure.name), Text(figure.number, style="bold", justify="right"), Text(figure.note, "dim"))
    return found


def _width(inspection: Inspection) -> int:
    """Return the characters that the group table needs to have every name on one line."""
    lines = rows.group_lines(inspection)
    columns = ([line.name for line in lines], *([name for line in lines for name in names(line)] for names in _NAMES))
    return _NUMBERS + sum(max(map(len, column), default=0) for column in columns)


def _groups(inspection: Inspection, *, names: bool) -> Table:
    """Return the group table; the group's own name is its first maker."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    found.add_column("Group", overflow="fold")
    found.add_column("Width", justify="right")
    for name, counted in (("Also made by", "Made\nby"), ("Read by", "Read\nby")):
        found.add_column(name if names else counted, overflow="fold", justify="left" if names else "right")
    found.add_column("Params", justify="right", no_wrap=True)
    found.add_column("MACs", justify="right", no_wrap=True)
    found.add_column("Share", min_width=BAR_WIDTH)
    found.add_column("Halved\nsaves", justify="right")
    for group, line in zip(inspection.groups, rows.group_lines(inspection), strict=True):
        others = rows.condensed(each for each in group.makers if each != group.name)
        found.add_row(
            Text(line.name, style="bold"),
            line.width,
            Text("\n".join(others) if names else str(len(group.makers))),
            Text("\n".join(line.readers) if names else str(len(group.readers))),
            line.parameters,
            line.macs,
            Bar(1.0, 0.0, line.share, width=BAR_WIDTH, color="cyan"),
            line.saved,
        )
    return found


def _reasons(title: str, found: Sequence[rows.KeptReason], style: str) -> list[RenderableType]:
    if not found:
        return []
    listed = Table.grid(padding=(0, 2, 0, 0))
    listed.add_column(ratio=2, overflow="fold")
    listed.add_column(ratio=3, overflow="fold")
    for reason in found:
        where = f"\nat {', '.join(reason.places)}" if reason.places else ""
        listed.add_row(Text.assemble(reason.text, (where, "dim")), Text(", ".join(reason.layers)))
    return [Text(title, style=style), listed, Text()]
