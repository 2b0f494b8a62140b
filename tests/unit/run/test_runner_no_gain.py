"""A run with stages that have to bring a gain: the chain, the store, resumption, and what the report says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.errors import StageError
from pipeline.core.store import Store
from pipeline.recipe import load_recipe
from pipeline.run import no_gain
from pipeline.run.plan import make_plan
from pipeline.run.runner import Run
from tests.unit.run.gain_fixtures import FAST, SLOW, Scenes, nudge

if TYPE_CHECKING:
    from pipeline.core.stage import Stage
    from pipeline.results.run import RunReport
    from tests.project import Project

EXPORT = {"kind": "export", "to": "onnx"}


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """Return what measures from now on; nothing is faster."""
    found = Scenes(SLOW)
    monkeypatch.setattr(no_gain, "measure_subjects", found)
    return found


class Chain:
    """The toy project with stages of the test's own."""

    def __init__(self, project: Project) -> None:
        self.folder = project.folder
        self.recipe = project.recipe
        self.store = Store(project.folder / "store")

    def run(self, *stages: Stage) -> Run:
        """Return a run of these stages, not yet begun."""
        loaded = load_recipe(self.recipe, [f"stages=[{json.dumps(EXPORT)}]"])
        recipe = loaded.recipe.model_copy(update={"stages": (*stages, *loaded.recipe.stages)})
        return Run(replace(loaded, recipe=recipe), self.folder / "run", self.store, test=False)

    @property
    def nudges(self) -> int:
        """How often the stage has run."""
        return len((self.folder / "nudges.txt").read_text().splitlines())


@pytest.fixture
def chain(project: Project) -> Chain:
    """Return a chain with a store of its own."""
    return Chain(project)


def columns(report: RunReport) -> list[tuple[Any, ...]]:
    """Return what each row is, apart from its numbers."""
    return [(row.label, row.digest, row.artifact, row.changed) for row in report.rows]


def test_a_skipped_stage_is_as_if_it_were_not_there(chain: Chain, scenes: Scenes) -> None:
    """What follows starts from what there was before, this time and when the step comes from the store."""
    report = chain.run(nudge(0.5, "skip")).execute()
    original, skipped, export = report.rows
    assert skipped.verdict == f"skipped: no gain ({skipped.changed['gain']['text']})"
    assert skipped.verdict.startswith("skipped: no gain (0.83x [0.")
    assert (skipped.artifact, skipped.digest) == (original.artifact, original.digest)
    assert export.digest == original.digest
    assert [path.name for path in (chain.folder / "run/stages/01-nudge").iterdir()] == ["record.json"]
    again = chain.run(nudge(0.5, "skip")).execute()
    assert all(row.cached for row in again.rows)
    assert columns(again) == columns(report)
    assert (chain.nudges, len(scenes.calls)) == (1, 1)


def test_a_stage_with_a_gain_stays(chain: Chain, scenes: Scenes) -> None:
    """Its artifact goes on with the gain in its lineage, and the verdict is the gain, without a measurement."""
    scenes.scene = FAST
    run = chain.run(nudge(0.5, "fail"))
    original, kept, export = run.execute().rows
    assert kept.gain is not None
    assert kept.gain.decision == "kept"
    assert "1.25x faster" in kept.verdict
    assert export.verdict == "the same file"
    assert len({original.digest, kept.digest}) == 2
    assert export.digest == kept.digest
    record = run.artifacts[1].lineage[-1]
    assert record.changed == kept.changed
    assert record.config == {"kind": "nudge", "amount": 0.5, "on_no_gain": "fail"}


def test_a_failing_stage_ends_the_run_and_is_not_made_again(chain: Chain, scenes: Scenes) -> None:
    """The error is in run.json; the next try times again, and `keep` takes what was made, without timing."""
    for _ in range(2):
        with pytest.raises(StageError, match="nudge gained no time"):
            chain.run(nudge(0.5, "fail")).execute()
    written = json.loads((chain.folder / "run/run.json").read_text())
    assert written["status"] == "failed"
    assert "0.83x" in written["error"]
    assert [row["label"] for row in written["rows"]] == ["original"]
    assert (chain.nudges, len(scenes.calls)) == (1, 2)
    kept = chain.run(nudge(0.5, "keep")).execute().rows[1]
    assert (kept.cached, kept.gain, kept.config) == (True, None, {"kind": "nudge", "amount": 0.5})
    assert (chain.nudges, len(scenes.calls)) == (1, 2)


def test_a_run_killed_while_timing_resumes_there(chain: Chain, scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stage made is there, the plan says so, and the chain ends as it would have."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(no_gain, "measure_subjects", killed)
    run = chain.run(nudge(0.5, "skip"))
    with pytest.raises(KeyboardInterrupt):
        run.execute()
    plan = make_plan(run.loaded, chain.store, 0)
    assert [step.reason for step in plan.steps[:2]] == ["in the store", "made before; its gain has yet to be timed"]
    monkeypatch.setattr(no_gain, "measure_subjects", scenes)
    report = chain.run(nudge(0.5, "skip")).execute()
    assert report.rows[1].skipped
    assert report.rows[2].digest == report.rows[0].digest
    assert (chain.nudges, len(scenes.calls)) == (1, 1)


def test_a_stage_that_changes_nothing_is_not_timed(chain: Chain, scenes: Scenes) -> None:
    """The same file is no gain."""
    report = chain.run(nudge(0.0, "skip")).execute()
    assert report.rows[1].verdict == "skipped: no gain (the same file)"
    assert scenes.calls == []


def test_each_stage_is_timed_against_what_the_chain_has(chain: Chain, scenes: Scenes) -> None:
    """After a skipped stage the next is compared with what was there before it."""
    report = chain.run(nudge(0.5, "skip"), nudge(0.25, "skip")).execute()
    first, second = ([subject.digest for subject in subjects] for subjects, _, _ in scenes.calls)
    assert first[0] == second[0] == report.rows[0].digest
    assert first[1] != second[1]
    assert [row.skipped for row in report.rows] == [False, True, True, False]
