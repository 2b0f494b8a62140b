"""The report in the terminal: the stage table, searches for a precision, final test and budget in a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.report import numbers
from pipeline.report.run import headline, latency_rows, precision_rows, rows
from pipeline.report.run.rows import place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

    from pipeline.report.run.gains import Tone
    from pipeline.results.latency_target import LatencyTarget
    from pipeline.results.precision import PrecisionPlan, State
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
    parts: list[RenderableType] = [_stages(report), _bought(report), Text(), *_aims(report), *_searches(report)]
    if report.final is not None:
        found = headline.difference(report.final, report.task)
        told = f"{headline.judgement(report.final, report.task)}: {found}"
        parts.append(Text.assemble(("Final test: ", "bold"), told))
    if report.storage is not None:
        parts.append(Text.assemble(("Storage: ", "bold"), headline.storage(report)))
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
    where = rows.timed_place(report)
    title = f"Latency and speedup in {where}"
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    found.add_column("Stage", overflow="fold")
    score = "\n".join(rows.score_heading(report))
    for name in (score, "Latency\ninterval", "Speedup\ninterval", "MACs\nparams", "Size\ngzip", "Took\n"):
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
    below = f"\n{note}" if note and note != text else ""
    return Text.assemble(text, (below, "dim"), (f"\n{mark}" if mark else "", _STYLES["unsure"]))


def _aims(report: RunReport) -> Iterator[RenderableType]:
    """Yield what to print of every compression to a latency."""
    for row, aim in latency_rows.aims(report):
        yield Text(latency_rows.title(row), style="bold")
        yield Text(latency_rows.verdict(aim), style=_VERDICT_STYLES["met" if aim.is_within else "missed"])
        for name, text in latency_rows.about(report, aim):
            yield Text.assemble((f"{name}: ", "dim"), text)
        if aim.moves:
            yield _moves(aim)
        if aim.layers:
            yield _layers(aim)
        yield Text()


def _moves(aim: LatencyTarget) -> Table:
    found = _table("Move", "Width", "Predicted", "Measured\ninterval", "Damage")
    found.add_column("Bought", overflow="fold")
    for line in latency_rows.move_lines(aim, latency_rows.LARGEST):
        measured = _cell(line.measured.text, line.measured.note)
        named = Text.assemble((line.name, "bold"), (f"\n{line.kind}", "dim"))
        found.add_row(named, line.change, line.predicted, measured, line.damage, Text(line.bought))
    return found


def _layers(aim: LatencyTarget) -> Table:
    found = _table("Layer", "Before", "After", "Change")
    for line in latency_rows.layer_lines(aim):
        named = Text.assemble((line.name, "bold"), (f"\n{line.operator}" if line.operator else "", "dim"))
        found.add_row(named, line.before, line.after, line.change)
    return found


def _table(name: str, *numbers_: str) -> Table:
    """Return an empty table of names and numbers; cells are folded, never cut."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    found.add_column(name, overflow="fold")
    for each in numbers_:
        found.add_column(each, justify="right", overflow="fold")
    return found


_STATE_STYLES: Mapping[State, str] = {"chosen": "bold green", "kept": "", "dropped": "red", "missing": "yellow"}


def _searches(report: RunReport) -> Iterator[RenderableType]:
    """Yield what to print of every search. Text from the run is never read as rich's markup."""
    for row, plan in precision_rows.searches(report):
        label, sentence = precision_rows.conclusion(plan)
        yield Text(precision_rows.title(row), style="bold")
        yield Text(
            f"{place(plan.runtime, plan.threads)}, on {plan.device}; allowed "
            f"{precision_rows.allowed_change(plan)} on {plan.validation_images:,} images; "
            f"took {numbers.duration(plan.seconds)}"
        )
        yield _candidates(plan)
        yield Text.assemble(("Chosen: ", "bold"), (label, _STATE_STYLES["chosen"]), f". {sentence}")
        yield Text()


def _candidates(plan: PrecisionPlan) -> Table:
    """Return a row for each candidate; numbers have their interval below them."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    found.add_column("Candidate", overflow="fold")
    score, unit = precision_rows.score_heading(plan)
    found.add_column(f"{score}\nchange, {unit}", justify="right", overflow="fold")
    found.add_column("Speedup\ninterval", justify="right", overflow="fold")
    found.add_column("Verdict", overflow="fold")
    for line in precision_rows.lines(plan):
        reason = f": {line.reason}" if line.reason else ""
        found.add_row(
            Text(f"{line.number} {line.label}", style="bold" if line.state == "chosen" else ""),
            Text.assemble(line.accuracy.text, (f"\n{line.accuracy.note}" if line.accuracy.note else "", "dim")),
            Text.assemble(line.speedup.text, (f"\n{line.speedup.note}" if line.speedup.note else "", "dim")),
            Text.assemble((line.verdict, _STATE_STYLES[line.state]), reason),
        )
    return found
