"""A recipe that searches for a precision: killed in the middle, run again, shown."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.precision.planner import CANDIDATES
from pipeline.results.precision import PrecisionPlan

if TYPE_CHECKING:
    from tests.project import Project

RECIPE = """\
format: 1
name: toy
model: {definition: model.py, arguments: {classes: 2}}
data: {source: file, path: data.py}
target: {runtime: onnxruntime, threads: 1}
stages:
  - {kind: export, to: onnx}
  - {kind: simplify}
  - {kind: quantize, engine: auto, images: 32, accuracy_drop: 100pt, budget: 1s}
"""


def wait_for_candidates(project: Project) -> None:
    """Wait until some files have been tried."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if len(list((project.folder / "store").glob(f"work/*/{CANDIDATES}/*.onnx"))) > 2:
            return
        time.sleep(0.02)
    pytest.fail("no candidates in the store after five minutes")


@pytest.mark.slow
def test_a_search_that_was_killed_runs_again_to_its_end(project: Project) -> None:
    """It starts anew, leaves nothing behind, and is in the store afterwards; the report tells everything."""
    project.recipe.write_text(RECIPE)
    process = project.start("run", "toy.yaml")
    wait_for_candidates(project)
    os.kill(process, signal.SIGKILL)
    project.wait(process)
    again = project.command("run", "toy.yaml")
    assert again.returncode == 0, again.stderr
    assert "Which precision, and why" in again.stdout
    assert not list((project.folder / "store").rglob(CANDIDATES))
    row = json.loads((project.folder / "runs/toy/run.json").read_text())["rows"][3]
    plan = PrecisionPlan.model_validate(row["changed"]["plan"])
    assert all(each.reason for each in plan.candidates)
    assert row["size_bytes"] == plan.winner.size_bytes
    assert row["validation"]["accuracy"] == pytest.approx(plan.winner.accuracy)
    assert plan.winner.label in (project.folder / "runs/toy/report.md").read_text()
    shown = project.command("plan", "toy.yaml")
    assert shown.stdout.count("cached") + shown.stdout.count("in the store") >= 4
