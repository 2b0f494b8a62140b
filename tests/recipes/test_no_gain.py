"""A stage that brings no time is skipped in a whole run, with real files and real time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline.core.store import Store
from pipeline.measure.bench import plan_for
from pipeline.recipe import load_recipe
from pipeline.run import no_gain
from pipeline.run.runner import Run

if TYPE_CHECKING:
    from pipeline.results.measurement import SamplingPlan
    from tests.project import Project

STAGES = [
    {"kind": "finetune", "epochs": 1, "batch": 16, "learning_rate": 0.001, "on_no_gain": "skip"},
    {"kind": "prune", "ratio": 0.75, "align": 4, "on_no_gain": "fail"},
    {"kind": "export", "to": "onnx"},
]


def short_and_sure(subjects: int, budget_s: float) -> SamplingPlan:
    """Return a plan of a few sessions that takes one chance in 10,000 for a gain."""
    del budget_s
    return plan_for(subjects, 2.0).model_copy(update={"level": 0.9998})


@pytest.mark.slow
def test_training_is_skipped_and_pruning_stays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights of the same network take as long; a quarter of the channels of a wide one takes less."""
    monkeypatch.setattr(no_gain, "plan_for", short_and_sure)
    change = (f"stages={json.dumps(STAGES)}", "model.arguments.width=64")
    loaded = load_recipe(project.recipe, change)
    report = Run(loaded, project.folder / "run", Store(project.folder / "store"), test=False).execute()
    original, finetune, prune, export = report.rows
    assert finetune.skipped
    assert finetune.verdict.startswith("skipped: no gain (")
    assert finetune.digest == original.digest
    assert prune.gain is not None
    assert prune.gain.decision == "kept"
    assert " faster" in prune.verdict
    assert export.digest == prune.digest
    page = (project.folder / "run" / "report.html").read_text()
    assert "skipped: no gain" in page
