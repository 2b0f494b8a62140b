"""A frontier for people: one table in the terminal, one page with the picture of score over latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

import pipeline
from pipeline.core.partial import write_whole
from pipeline.report import numbers
from pipeline.report.drawing.template import load_template
from pipeline.report.run import rows
from pipeline.report.run.plot import PlottedFile, files_over_latency
from pipeline.report.run.rows import Cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from markupsafe import Markup
    from rich.console import RenderableType

    from pipeline.report.run.rows import Role
    from pipeline.results.frontier import Frontier, FrontierFile, FrontierPoint
    from pipeline.results.run import Interval

PAGE = "frontier.html"
READ = (
    "Unpruned: the pruned file's time over that of the unpruned network's file in the precision that ships, of which "
    "targets are a share. FP32: the time of the file that ships over that of the original FP32 file, where the recipe "
    "measures both, and latency that share of its time. Pareto: no other file, the original among them, is as fast and "
    "as good. Scores are of the validation split; the test split was not looked at."
)


@dataclass(frozen=True)
class PointLine:
    """One file as text; of a point without a file `why` says what became of it."""

    name: str
    ratio: Cell
    original_ratio: Cell
    milliseconds: Cell
    score: Cell
    size: str
    pareto: str
    why: str = ""


def point_lines(found: Frontier) -> tuple[PointLine, ...]:
    """Return a line for the original, and one for each target in the order in which they were asked for."""
    original = _line(found, "original", found.original)
    return (original, *(_point(found, each) for each in found.points))


def headings(found: Frontier) -> tuple[str, ...]:
    """Return the titles of the columns."""
    score = numbers.metric_name(found.task.judged.name)
    return ("Target", "Of the\nunpruned", "Of the\nFP32 file", "Latency", score, "Size", "Pareto")


def where(found: Frontier) -> str:
    """Write where files were timed."""
    target = found.target
    return f"{rows.place(target.runtime, target.threads)}, on {target.device}, batch {target.batch}"


def frontier_table(found: Frontier) -> RenderableType:
    """Return what `secateur frontier` prints. Text from the runs is never read as rich's markup."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"{found.name}: {where(found)}",
        title_justify="left",
    )
    for number, heading in enumerate(headings(found)):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    lines = point_lines(found)
    for line in lines:
        cells = (line.ratio, line.original_ratio, line.milliseconds, line.score)
        mark = Text(line.pareto, style="green")
        table.add_row(Text(line.name, style="bold"), *map(_cell, cells), line.size, mark)
    told = [Text.assemble((f"{line.name}: ", "bold"), line.why) for line in lines if line.why]
    return Group(table, *told, Text(READ, style="dim"))


def write_frontier_page(found: Frontier, folder: Path) -> Path:
    """Write frontier.html into the frontier's folder; return it. Raises ResourceError when it cannot be written."""
    write_whole(folder / PAGE, render(found))
    return folder / PAGE


def render(found: Frontier) -> str:
    """Return the page. Everything that comes from the runs is escaped."""
    return load_template("frontier.html.j2").render(
        found=found,
        version=pipeline.__version__,
        where=where(found),
        headings=headings(found),
        lines=point_lines(found),
        pictures=[drawn for wide in (True, False) if (drawn := picture(found, wide=wide))],
        read=READ,
    )


def picture(found: Frontier, *, wide: bool = True) -> Markup | None:
    """Draw score over latency, the files that are Pareto joined; None where fewer than two files have both."""
    files: list[tuple[str, FrontierFile, Role]] = [("original", found.original, "original")]
    files += [(each.target, each, "result" if each.pareto else "stage") for each in found.points]
    drawn = [
        PlottedFile(name, name, file.score, file.milliseconds, role)
        for name, file, role in files
        if file.score and file.milliseconds
    ]
    if len(drawn) < 2:  # noqa: PLR2004 - one point compares nothing
        return None
    drawn.sort(key=lambda each: -each.milliseconds.value)
    joined = [at for at, each in enumerate(drawn) if each.role == "result"]
    return files_over_latency(drawn, found.task.judged, where(found), wide=wide, joined=joined)


def _point(found: Frontier, point: FrontierPoint) -> PointLine:
    line = _line(found, point.target, point)
    if point.status != "finished":
        return PointLine(line.name, Cell(), Cell(), Cell(), Cell(), numbers.DASH, "", f"{point.status}: {point.why}")
    return PointLine(
        name=line.name,
        ratio=_interval(point.ratio, _factor, _miss(point)),
        original_ratio=_interval(point.original_ratio, _factor),
        milliseconds=line.milliseconds,
        score=Cell(line.score.text, numbers.score_change(point.change, found.task.judged)),
        size=line.size,
        pareto="yes" if point.pareto else "",
    )


def _miss(point: FrontierPoint) -> str:
    """Say on which side of its target a file lies that is not near it."""
    if point.met is not False or point.ratio is None or point.asked_ratio is None:
        return ""
    return "missed" if point.ratio.value > point.asked_ratio else "faster"


def _line(found: Frontier, name: str, file: FrontierFile) -> PointLine:
    score = Cell(numbers.score(file.score.judged, found.task.judged)) if file.score else Cell()
    times = _interval(file.milliseconds, numbers.milliseconds)
    return PointLine(name, Cell(), Cell(), times, score, numbers.size(file.size_bytes), "")


def _interval(interval: Interval | None, write: Callable[[float], str], mark: str = "") -> Cell:
    if interval is None:
        return Cell()
    return Cell(write(interval.value), f"{numbers.bounds(interval)} {mark}".strip())


def _factor(value: float) -> str:
    return f"{numbers.significant(value)}x"


def _cell(cell: Cell) -> Text:
    return Text.assemble(cell.text, (f"\n{cell.note}" if cell.note else "", "dim"))
