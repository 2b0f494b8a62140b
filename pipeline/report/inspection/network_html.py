"""An inspection as one HTML page that needs nothing else: no script, no network, drawings and style inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pipeline
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.partial import write_whole
from pipeline.report import numbers
from pipeline.report.drawing.template import load_template
from pipeline.report.inspection import network_map as inspection_map
from pipeline.report.inspection import network_rows as rows
from pipeline.report.inspection.network_rails import rails

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from markupsafe import Markup

    from pipeline.results.inspection import Inspection


def render(inspection: Inspection) -> str:
    """Return the page. Everything that comes from the network is escaped."""
    placed = rails(inspection, most=0)
    return load_template("inspection.html.j2").render(
        inspection=inspection,
        version=pipeline.__version__,
        figures=rows.figures(inspection),
        strips=_both(inspection_map.mac_strip, inspection),
        maps=_both(inspection_map.layer_map, inspection),
        groups=[(line, placed.get(line.name)) for line in rows.group_lines(inspection)],
        reasons=rows.reasons(inspection),
        without_rule=rows.without_rule(inspection),
        layers=[(layer, rows.share(layer.macs, inspection.macs)) for layer in inspection.layers],
        count=numbers.count,
        numbers_of_groups=[rail.number for rail in placed.values()],
    )


def save_page(page: str, file: Path) -> None:
    """Write a page into new folders where needed. Raises InputError when the file cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, page)
    except ResourceError as error:
        raise InputError(f"{error}. Name another file.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}. Name another file.") from error


def _both(draw: Callable[..., Markup], inspection: Inspection) -> list[Markup]:
    """Return a drawing for wide and one for narrow windows; nothing where there is nothing to draw."""
    return [drawn for wide in (True, False) if (drawn := draw(inspection, wide=wide))]
