"""run.json to terminal table, Markdown, JSON and a self-contained HTML page.

`write` puts report.json, report.md and report.html into a folder. Each file is written beside its place under another
name and then renamed, so that a reader sees the old report or the new one and never half of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.partial import write_whole
from pipeline.report.run import html, markdown

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.run import RunReport


def write_report(report: RunReport, folder: Path) -> dict[str, Path]:
    """Write the report in every form; return where, by form: "json", "markdown" and "html".

    Raises:
        ResourceError: the folder cannot be written.
    """
    texts = {
        "json": ("report.json", report.model_dump_json(indent=2) + "\n"),
        "markdown": ("report.md", markdown.render(report)),
        "html": ("report.html", html.render(report)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.values():
        write_whole(folder / name, text)
    return {form: folder / name for form, (name, _) in texts.items()}
