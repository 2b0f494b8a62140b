"""The report's files: all three forms, each whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import ResourceError
from pipeline.report import write_report
from pipeline.report.run import html, markdown
from pipeline.results.run import SCHEMA_VERSION, RunReport

if TYPE_CHECKING:
    from collections.abc import Callable


def test_write_gives_all_three_forms(report: RunReport, tmp_path: Path) -> None:
    """JSON, Markdown and HTML lie in the folder under the names that are returned, and nothing else does."""
    found = write_report(report, tmp_path / "runs" / "demo")
    assert {form: path.name for form, path in found.items()} == {
        "json": "report.json",
        "markdown": "report.md",
        "html": "report.html",
    }
    assert sorted(path.name for path in (tmp_path / "runs" / "demo").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    assert found["markdown"].read_text(encoding="utf-8") == markdown.render(report)
    assert found["html"].read_text(encoding="utf-8") == html.render(report)


def test_json_is_the_whole_run(report: RunReport, tmp_path: Path) -> None:
    """The JSON holds its schema version and reads back as the same report, with every digit."""
    text = write_report(report, tmp_path)["json"].read_text(encoding="utf-8")
    assert f'"schema_version": {SCHEMA_VERSION}' in text
    assert RunReport.model_validate_json(text) == report


def test_files_appear_whole(report: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is written under another name and only its rename makes it the report."""
    seen: list[tuple[str, bool, bool]] = []
    rename: Callable[[Path, Path], Path] = Path.replace

    def spy(path: Path, target: Path) -> Path:
        seen.append((target.name, path.parent == target.parent, path.read_text(encoding="utf-8")[-1] == "\n"))
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_report(report, tmp_path)
    assert seen == [(name, True, True) for name in ("report.json", "report.md", "report.html")]


def test_failed_write_keeps_the_old_report(report: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the report that was there stays, and nothing half-written is left."""
    write_report(report, tmp_path)
    before = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_report(report.model_copy(update={"name": "another"}), tmp_path)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == before
