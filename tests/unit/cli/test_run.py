"""What `secateur run` and `plan` say beside their tables."""

from __future__ import annotations

import json
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


def test_what_is_priced_is_said_before_a_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `plan` under the step, and by `validate` where the file that ships would be another one."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("SECATEUR_STORE", str(project.folder / "store"))
    asked = ("stages.prune.ratio=null", "stages.prune.target={latency: 0.5x}", "stages.prune.precision=fp32")
    sets = [word for text in asked for word in ("--set", text)]
    planned = CliRunner().invoke(app, ["plan", "toy.yaml", *sets]).stdout.splitlines()
    warned = "priced in fp32, but the quantize stage after it makes int8"
    assert planned[2:4] == [
        "    priced as fp32 in onnxruntime on local, 1 thread; 0.5x of the unpruned file",
        f"    warning: {warned}: the file that ships has another time; remove precision to price that",
    ]
    listed = json.loads(CliRunner().invoke(app, ["plan", "toy.yaml", *sets, "--json"]).stdout)
    assert [sorted({"notes", "warnings"} & step.keys()) for step in listed[:3]] == [[], ["notes", "warnings"], []]
    checked = CliRunner().invoke(app, ["validate", "toy.yaml", *sets])
    assert checked.exit_code == 0
    assert f"toy.yaml: warning: stages.0: {warned}" in checked.stderr
    told = json.loads(CliRunner().invoke(app, ["validate", "toy.yaml", *sets, "--json"]).stdout)
    assert told["valid"]
    assert warned in told["warnings"][0]


def test_help_says_the_units_of_prune_and_how_stages_are_counted() -> None:
    """As the code takes them."""
    shown = " ".join(CliRunner().invoke(app, ["store", "prune", "--help"]).stdout.split())
    assert "a number with d, h, min, s or ms" in shown
    shown = " ".join(CliRunner().invoke(app, ["run", "--help"]).stdout.split())
    assert "stages.0 is row 1" in shown
