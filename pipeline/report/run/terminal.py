"""The report in the terminal: the stage table, searches for a precision, final test and budget in a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.report.run import headline, precision_terminal, rows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.report.run.gains import Tone
    from pipeline.results.run import RunReport

_STYLES: dict[Tone, str] = {
    "better": "green",
    "worse": "red",
    "unsure": "yellow",
    "nothing": "black on yellow",
    "plain": "dim",
}
_VERDICT_STYLES = {"met": "green", "missed": "bold red", "cannot tell": "yellow"}


def run_table(report: RunReport) -> RenderableType:
    """Return what to print after a run. Text from the run is never read as rich's markup."""
    parts: list[RenderableType] = [_stages(report), _bought(report), Text(), *precision_terminal.tables(report)]
    if report.final is not None:
        found = headline.difference(report.final.difference, report.final.result.images)
        parts.append(Text.assemble(("Final test: ", "bold"), f"{headline.judgement(report.final)}: {found}"))
    parts.extend(
        Text.assemble(
            ("Budget: ", "bold"),
            f"{line.name.replace('_', ' ')} asked {line.asked}, found {line.found}: ",
            (line.verdict, _VERDICT_STYLES[line.verdict]),
        )
        for line in report.budget
    )
    if banner := headline.banner(report):
        parts.append(Text(banner, style="bold red"))
    return Group(*parts)


def _stages(report: RunReport) -> Table:
    """Return the stage table; numbers have their interval or companion below them."""
    where = rows.place(report.target.runtime, report.target.threads)
    title = f"Latency and speedup in {where}"
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    found.add_column("Stage", overflow="fold")
    for name in ("Accuracy\npoints", "Latency\ninterval", "Speedup\ninterval", "MACs\nparams", "Size\ngzip", "Took\n"):
        found.add_column(name, justify="right", overflow="fold")
    for line in rows.lines(report):
        found.add_row(
            _stage(line),
            _cell(line.accuracy.text, line.accuracy.note),
            _cell(line.latency.text, line.latency.note, "contended" if line.contended else ""),
            _cell(line.speedup.text, line.speedup.note),
            _cell(line.macs, line.parameters),
            _cell(line.raw, line.gzip),
            Text(line.seconds.replace("min ", "min\n")),
        )
    return found


def _stage(line: rows.ReportLine) -> Text:
    """Write number and label, and below them whether the stage bought nothing or is the result."""
    if line.bought_nothing:
        return Text.assemble((f"{line.index} {line.label}\n", "dim"), ("bought nothing", _STYLES["nothing"]))
    return Text.assemble((f"{line.index} {line.label}", "bold"), "\nresult" if line.role == "result" else "")


def _bought(report: RunReport) -> Table:
    """Return what each stage bought and cost, and its verdict, in the whole width."""
    found = Table.grid(padding=(0, 2, 0, 0))
    for line in rows.lines(report):
        if line.chips or line.verdict:
            rest = [Text(line.verdict)] if line.verdict else []
            chips = [Text(chip.text, style=_STYLES[chip.tone]) for chip in line.chips]
            found.add_row(Text(f"{line.index} {line.label}", style="bold"), Text(", ").join([*chips, *rest]))
    return found


def _cell(text: str, note: str, mark: str = "") -> Text:
    """Write a number with its smaller text below it."""
    below = f"\n{note}" if note and note != text else ""
    return Text.assemble(text, (below, "dim"), (f"\n{mark}" if mark else "", _STYLES["unsure"]))
