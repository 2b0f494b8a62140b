"""What the page shows of every search for a precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.run import precision_plot, precision_rows

if TYPE_CHECKING:
    from markupsafe import Markup

    from pipeline.report.run.facts import Facts
    from pipeline.results.run import RunReport


@dataclass(frozen=True)
class Search:
    """One search as text and drawings; `plots` is empty, or has a wide and a narrow one."""

    title: str
    about: Facts
    chosen: str
    conclusion: str
    lines: tuple[precision_rows.CandidateLine, ...]
    layers: tuple[precision_rows.LayerLine, ...]
    plots: tuple[Markup, ...]
    not_drawn: str


def searches(report: RunReport) -> tuple[Search, ...]:
    """Return every search of a run. Raises ValidationError when a row's plan is not one of this version."""
    found = []
    for row, plan in precision_rows.searches(report):
        drawn = (precision_plot.accuracy_over_speedup(plan, wide=wide) for wide in (True, False))
        found.append(
            Search(
                precision_rows.title(row),
                precision_rows.about(plan),
                *precision_rows.conclusion(plan),
                precision_rows.lines(plan),
                precision_rows.layer_lines(plan),
                tuple(each for each in drawn if each),
                precision_plot.not_drawn(plan),
            )
        )
    return tuple(found)
