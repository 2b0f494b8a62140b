"""A run that says that it is running is believed while a process holds its folder; else it was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.bundle.packing import file_of_run
from pipeline.cli import app
from pipeline.core.errors import InputError
from pipeline.core.locks import file_lock, is_held
from pipeline.report.run import rows
from pipeline.results.run_folder import LOCK_FILE, read_run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.run import RunReport

COMMAND = "secateur run toy.yaml --set stages.prune.ratio=0.4 --no-test"


@pytest.fixture
def folder(report: RunReport, tmp_path: Path) -> Path:
    """Return the folder of a run that was killed after three rows: its lock still names it, and nobody has it."""
    changes = {"status": "running", "rows": report.rows[:3], "final": None, "budget": (), "command": COMMAND}
    (tmp_path / "run.json").write_text(report.model_copy(update=changes).model_dump_json())
    (tmp_path / LOCK_FILE).write_text('{"process": 1, "host": "gone", "since": "2026-01-01T00:00:00+00:00"}')
    return tmp_path


def test_a_killed_run_is_interrupted(folder: Path) -> None:
    """Report and pages say so with the command that resumes it; the lock is left as it is."""
    done = CliRunner().invoke(app, ["report", str(folder)], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    for text in (done.output, (folder / "report.html").read_text()):
        assert "Interrupted: its process ended without finishing it" in text
        assert "The 3 rows so far are kept and valid; resume with: secateur run toy.yaml --set" in text
        assert "Still running" not in text
    assert "result" not in done.output
    assert "gone" in (folder / LOCK_FILE).read_text()
    with pytest.raises(InputError, match=f"that is interrupted: its process .* resume it with: {COMMAND}"):
        file_of_run(folder)


def test_a_run_at_work_is_running(folder: Path) -> None:
    """While its process has the lock; of what there is so far nothing is its result."""
    with file_lock(folder / LOCK_FILE, "busy"):
        found, _ = read_run(folder)
        with pytest.raises(InputError, match="that is running; expected a finished one: wait for it"):
            file_of_run(folder)
    assert found.status == "running"
    assert [rows.role(found, row) for row in found.rows] == ["original", "stage", "stage"]


def test_without_a_lock_it_has_ended(folder: Path) -> None:
    """As in a copy of its folder. What has finished needs none."""
    (folder / LOCK_FILE).unlink()
    assert not is_held(folder / LOCK_FILE)
    assert read_run(folder)[0].status == "interrupted"
    assert not (folder / LOCK_FILE).exists()
    text = (folder / "run.json").read_text().replace('"running"', '"finished"')
    (folder / "run.json").write_text(text)
    assert read_run(folder)[0].status == "finished"


def test_where_locks_cannot_be_asked_it_is_believed(folder: Path) -> None:
    """A lock that cannot be opened as a file says nothing."""
    (folder / LOCK_FILE).unlink()
    (folder / LOCK_FILE).symlink_to(LOCK_FILE)
    assert read_run(folder)[0].status == "running"
