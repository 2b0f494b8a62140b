"""The report as one HTML page that needs nothing else: no script, no network, drawings and style inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pipeline
from pipeline.report import numbers
from pipeline.report.drawing.template import load_template
from pipeline.report.run import facts, headline, latency_plot, latency_rows, plot, precision_plot, precision_rows, rows
from pipeline.report.run.details import detail_tables

if TYPE_CHECKING:
    from markupsafe import Markup

    from pipeline.report.run.facts import Facts
    from pipeline.results.run import RunReport


def render(report: RunReport) -> str:
    """Return the page. Everything that comes from the run is escaped."""
    return load_template("page.html.j2").render(
        report=report,
        version=pipeline.__version__,
        banner=headline.banner(report),
        standing=headline.standing(report),
        answers=headline.answers(report),
        about=facts.about(report),
        header=facts.header(report),
        lines=rows.lines(report),
        heading=rows.score_heading(report),
        target=rows.timed_place(report),
        runtimes=rows.runtime_table(report),
        paired=rows.PAIRED,
        plots=[drawn for wide in (True, False) if (drawn := plot.score_over_latency(report, wide=wide))],
        sizes=[drawn for wide in (True, False) if (drawn := plot.sizes(report, wide=wide))],
        final=_final(report),
        aims=_aims(report),
        read_moves=latency_rows.READ,
        read_times=latency_rows.READ_LAYERS,
        searches=_searches(report),
        dash=numbers.DASH,
        read=precision_rows.READ,
        read_layers=precision_rows.READ_LAYERS,
        stages=[
            (row, facts.stage(row), facts.flat(row.config), facts.flat(latency_rows.beside(row))) for row in report.rows
        ],
        machine=facts.flat(report.machine),
        data=facts.flat(report.data),
        recipe=facts.recipe_text(report),
    )


def _final(report: RunReport) -> dict[str, object] | None:
    if report.final is None:
        return None
    return {
        "metrics": headline.metrics(report.final, report.task),
        "difference": headline.difference(report.final, report.task),
        "judgement": headline.judgement(report.final, report.task),
        "level": numbers.level(report.final.difference),
        "details": detail_tables(report.final, report.task),
    }


@dataclass(frozen=True)
class _Aim:
    """One compression to a latency as text and drawings, a wide and a narrow one, which may be empty."""

    title: str
    verdict: str
    about: Facts
    moves: tuple[latency_rows.MoveLine, ...]
    layers: tuple[latency_rows.LayerLine, ...]
    plots: tuple[Markup, ...]


def _aims(report: RunReport) -> tuple[_Aim, ...]:
    """Return every latency of a run. Raises ValidationError when a row's record is not one of this version."""
    found = []
    for row, aim in latency_rows.aims(report):
        layers = latency_rows.layer_lines(aim)
        drawn = tuple(latency_plot.layer_times(layers, wide=wide) for wide in (True, False))
        terms = latency_rows.title(row), latency_rows.verdict(aim), latency_rows.about(report, aim)
        found.append(_Aim(*terms, latency_rows.move_lines(aim), layers, drawn))
    return tuple(found)


@dataclass(frozen=True)
class _Search:
    """One search as text and drawings; `plots` is empty, or has a wide and a narrow one."""

    title: str
    about: Facts
    chosen: str
    conclusion: str
    lines: tuple[precision_rows.CandidateLine, ...]
    layers: tuple[precision_rows.LayerLine, ...]
    plots: tuple[Markup, ...]
    not_drawn: str
    heading: tuple[str, str]


def _searches(report: RunReport) -> tuple[_Search, ...]:
    """Return every search of a run. Raises ValidationError when a row's plan is not one of this version."""
    found = []
    for row, plan in precision_rows.searches(report):
        drawn = (precision_plot.score_over_speedup(plan, wide=wide) for wide in (True, False))
        found.append(
            _Search(
                precision_rows.title(row),
                precision_rows.about(plan),
                *precision_rows.conclusion(plan),
                precision_rows.lines(plan),
                precision_rows.layer_lines(plan),
                tuple(each for each in drawn if each),
                precision_plot.not_drawn(plan),
                precision_rows.score_heading(plan),
            )
        )
    return tuple(found)
