"""The result of `secateur doctor` on one screen: what is wrong and what to do, then the noise and the margins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.report import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from pipeline.results.doctor import DoctorReport

STYLES = {"ok": "green", "warn": "bold yellow"}


def doctor_summary(
    found: DoctorReport, margins: Mapping[float, float], *, default_margin: float, kept: bool
) -> RenderableType:
    """Return checks, noise by both clocks, and the smallest honest margin for each budget in seconds."""
    head = (
        f"{found.device}: {found.fingerprint.get('cpu_model') or 'unknown processor'}, {found.runtime} "
        f"{found.runtime_version}, {numbers.plural(found.threads, 'thread')}"
    )
    how = (
        f"{numbers.plural(len(found.noise.ratios), 'A/A comparison')} of {found.seconds:.1f} s each, a network of "
        f"{numbers.milliseconds(found.inference_ms)}; {found.interrupted_share:.0%} of the blocks interrupted"
    )
    lines = [
        how,
        *(
            f"smallest honest margin in {budget_s:g} s: {margin:.1%}{_against(margin, default_margin)}"
            for budget_s, margin in margins.items()
        ),
        "compare will take this into account from now on" if kept else "not kept: too few comparisons to rely on",
    ]
    return Group(Text(head), _checks(found), Text(), _noise(found), Text(), *map(Text, lines))


def _against(margin: float, default: float) -> str:
    if margin <= default:
        return f", the default of {default:.0%} is honest"
    return f", larger than the default of {default:.0%}: ask for {margin:.1%} or measure longer"


def _checks(found: DoctorReport) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("")
    table.add_column("")
    table.add_column("", overflow="fold")
    for check in found.checks:
        table.add_row(Text(check.level, STYLES[check.level]), Text(check.name), Text(check.text))
    return table


def _noise(found: DoctorReport) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("copy against original")
    for name in ("q95 of |ratio - 1|", "standard deviation", "decides"):
        table.add_column(name, justify="right")
    for clock, noise in (("cpu", found.cpu), ("wall", found.wall)):
        name = {"cpu": "CPU time", "wall": "wall time"}[clock]
        table.add_row(name, f"{noise.q95:.2%}", f"{noise.deviation:.2%}", "yes" if clock == found.clock else "")
    return table
