"""The GitHub action: its YAML is read, its command and options exist, and no input becomes part of a script."""

from __future__ import annotations

import re
from pathlib import Path

from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app

FOLDER = Path(__file__).parents[2] / ".github" / "actions" / "latency-gate"
ACTION = YAML(typ="safe").load(FOLDER / "action.yml")
SCRIPTS = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]


def test_options_of_the_action_exist() -> None:
    """Every option that it gives to `secateur gate` is one."""
    told = CliRunner().invoke(app, ["gate", "--help"]).output
    options = set(re.findall(r"--[a-z]+", "".join(script for script in SCRIPTS if "secateur gate" in script)))
    assert options >= {"--config", "--junit", "--markdown", "--inconclusive", "--accept", "--drift"}
    assert all(option in told for option in options)


def test_inputs_reach_scripts_through_the_environment() -> None:
    """A title or a reason of a pull request is never part of a script's text."""
    assert len(SCRIPTS) >= 4
    assert not [script for script in SCRIPTS if "${{" in script]


def test_workflow_of_the_readme_uses_inputs_that_exist() -> None:
    """Its YAML is read, and every `with` of the action names inputs of it."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    steps = YAML(typ="safe").load(block)["jobs"]["gate"]["steps"]
    used = [step["with"] for step in steps if step.get("uses", "").endswith("latency-gate")]
    assert len(used) == 3
    assert {name for each in used for name in each} <= set(ACTION["inputs"])
