"""run.json to terminal table, Markdown, JSON and a self-contained HTML page.

`write` puts report.json, report.md and report.html into a folder. Each file is written beside its place under another
name and then renamed, so that a reader sees the old report or the new one and never half of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.report import html, markdown

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.run import RunReport


def write(report: RunReport, folder: Path) -> dict[str, Path]:
    """Write the report in every form; return where, by form: "json", "markdown" and "html".

    Raises:
        OSError: the folder cannot be written.
    """
    texts = {
        "json": ("report.json", report.model_dump_json(indent=2) + "\n"),
        "markdown": ("report.md", markdown.render(report)),
        "html": ("report.html", html.render(report)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return {form: _replace(folder / name, text) for form, (name, text) in texts.items()}


def _replace(path: Path, text: str) -> Path:
    """Write a file under another name, then rename it over its place; leave nothing behind when that fails."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        return unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
