"""An inspected file as one HTML page that needs nothing else: no script, no network, drawing and style inside."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pipeline
from pipeline.report.drawing.template import load_template
from pipeline.report.inspection import file_map as drawing
from pipeline.report.inspection import file_rows as rows
from pipeline.report.inspection.network_rows import condensed

if TYPE_CHECKING:
    from pipeline.results.file_inspection import FileInspection


def render(inspection: FileInspection) -> str:
    """Return the page. Everything that comes from the file is escaped."""
    maps = [drawn for wide in (True, False) if (drawn := drawing.layer_map(inspection, wide=wide))]
    return load_template("file_inspection.html.j2").render(
        inspection=inspection,
        version=pipeline.__version__,
        figures=rows.figures(inspection),
        about=rows.about(inspection),
        maps=maps,
        precisions=[
            (each, drawing.precision_class(each))
            for each, _ in Counter(layer.computed_in for layer in inspection.layers).most_common()
        ],
        most=rows.loses_most(inspection),
        findings=[(each.message, condensed(each.layers)) for each in inspection.findings],
        operators=[(each, rows.format_share(each.share)) for each in inspection.profile.operators]
        if inspection.profile
        else [],
        lines=rows.layer_lines(inspection),
    )
