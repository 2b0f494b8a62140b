"""The report as one HTML page that needs nothing else: no script, no network, drawings and style inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pipeline
from pipeline.report import numbers
from pipeline.report.drawing.template import load_template
from pipeline.report.run import facts, headline, plot, precision_html, precision_rows, rows

if TYPE_CHECKING:
    from pipeline.results.run import Row, RunReport


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
        target=rows.place(report.target.runtime, report.target.threads),
        runtimes=rows.runtime_table(report),
        paired=rows.PAIRED,
        plots=[drawn for wide in (True, False) if (drawn := plot.accuracy_over_latency(report, wide=wide))],
        sizes=[drawn for wide in (True, False) if (drawn := plot.sizes(report, wide=wide))],
        final=_final(report),
        searches=precision_html.searches(report),
        dash=numbers.DASH,
        read=precision_rows.READ,
        read_layers=precision_rows.READ_LAYERS,
        stages=[_stage(row) for row in report.rows],
        machine=facts.flat(report.machine),
        data=facts.flat(report.data),
        recipe=facts.recipe_text(report),
    )


def _stage(row: Row) -> tuple[Row, facts.Facts, facts.Facts, facts.Facts]:
    """Return a row with what can be unfolded: the file, its settings, what changed."""
    return row, facts.stage(row), facts.flat(row.config), facts.flat(precision_rows.beside_plan(row))


def _final(report: RunReport) -> dict[str, object] | None:
    """Return the final test's metrics and the sentences about them."""
    if report.final is None:
        return None
    return {
        "metrics": headline.metrics(report.final),
        "difference": headline.difference(report.final.difference, report.final.result.images),
        "judgement": headline.judgement(report.final),
        "level": numbers.level(report.final.difference),
    }
