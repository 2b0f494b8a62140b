"""A search for a precision in the terminal: its terms in a line, and every candidate with its verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.report import numbers
from pipeline.report.run import precision_rows
from pipeline.report.run.rows import place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

    from pipeline.results.precision import PrecisionPlan, State
    from pipeline.results.run import RunReport

_STYLES: Mapping[State, str] = {"chosen": "bold green", "kept": "", "dropped": "red", "missing": "yellow"}


def tables(report: RunReport) -> Iterator[RenderableType]:
    """Yield what to print of every search. Text from the run is never read as rich's markup."""
    for row, plan in precision_rows.searches(report):
        label, sentence = precision_rows.conclusion(plan)
        yield Text(precision_rows.title(row), style="bold")
        yield Text(
            f"{place(plan.runtime, plan.threads)}, on {plan.device}; allowed "
            f"{numbers.points(-plan.accuracy_drop / 100)} points on {plan.validation_images:,} images; "
            f"took {numbers.duration(plan.seconds)}"
        )
        yield _candidates(plan)
        yield Text.assemble(("Chosen: ", "bold"), (label, _STYLES["chosen"]), f". {sentence}")
        yield Text()


def _candidates(plan: PrecisionPlan) -> Table:
    """Return a row for each candidate; numbers have their interval below them."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    found.add_column("Candidate", overflow="fold")
    found.add_column("Accuracy\nchange, points", justify="right", overflow="fold")
    found.add_column("Speedup\ninterval", justify="right", overflow="fold")
    found.add_column("Verdict", overflow="fold")
    for line in precision_rows.lines(plan):
        reason = f": {line.reason}" if line.reason else ""
        found.add_row(
            Text(f"{line.number} {line.label}", style="bold" if line.state == "chosen" else ""),
            Text.assemble(line.accuracy.text, (f"\n{line.accuracy.note}" if line.accuracy.note else "", "dim")),
            Text.assemble(line.speedup.text, (f"\n{line.speedup.note}" if line.speedup.note else "", "dim")),
            Text.assemble((line.verdict, _STYLES[line.state]), reason),
        )
    return found
