"""What `secateur run` and `plan` say beside their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import DeviceError, OutputsError, ResourceError, SecateurError, StageError
from pipeline.run.runner import Run

if TYPE_CHECKING:
    from tests.project import Project


@pytest.mark.parametrize(
    ("error", "resumes"),
    [
        (StageError("far. Write on_far: float"), False),
        (OutputsError("other outputs"), False),
        (ResourceError("the disk is full"), True),
        (DeviceError("it is off"), True),
    ],
)
def test_a_run_is_resumed_only_where_that_can_help(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    error: SecateurError,
    resumes: bool,  # noqa: FBT001 - a parameter
) -> None:
    """What a stage refused it refuses again: said is what to change before the command."""

    def fails(_: Run) -> None:
        raise error

    monkeypatch.setattr(Run, "execute", fails)
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("sys.argv", ["secateur", "run", "toy.yaml"])
    done = CliRunner().invoke(app, ["run", "toy.yaml"])
    assert done.exit_code == error.exit_code
    assert str(error) in done.stderr
    assert ("Resume with: secateur run toy.yaml" in done.stderr) is resumes
    assert ("first change what is said above" in done.stderr) is not resumes
    assert done.stderr.rstrip().endswith("secateur run toy.yaml")


def test_a_fresh_run_is_planned(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has the option, and makes nothing."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("SECATEUR_STORE", str(project.folder / "store"))
    done = CliRunner().invoke(app, ["plan", "toy.yaml", "--fresh"])
    assert done.exit_code == 0, done.stderr
    assert all("will run" in line for line in done.stdout.splitlines())
    assert not (project.folder / "runs").exists()
    assert not (project.folder / "store").exists()


def test_help_says_the_units_of_prune_and_how_stages_are_counted() -> None:
    """As the code takes them."""
    shown = " ".join(CliRunner().invoke(app, ["store", "prune", "--help"]).stdout.split())
    assert "a number with d, h, min, s or ms" in shown
    shown = " ".join(CliRunner().invoke(app, ["run", "--help"]).stdout.split())
    assert "stages.0 is row 1" in shown
