"""What runs pruning to a latency with a timer that has no clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.stage import Context, SilentProgress, Target
from pipeline.data.arrays import image_classifier
from pipeline.onnx_graph.file import read_onnx
from pipeline.results.latency_target import LatencyTarget
from pipeline.stages.export import Export
from tests.unit.pricing.fake_timer import FakeTimer, Law, timers
from tests.unit.stages.prune_networks import DATA, original, prune

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from onnx import ModelProto

    from pipeline.core.stage import Outcome, Progress
    from pipeline.core.task import Task

FILES = ("weights.safetensors", "network.json")
#: Exports of the networks here, by their weights and what of them is left: they take most of a run.
EXPORTS: dict[str, ModelProto] = {}


def image_network(folder: Path, kind: str = "Small") -> Artifact:
    """Return a network whose input has the name that image classifiers' have."""
    folder.mkdir(exist_ok=True)
    given = original(folder, kind)
    return given.model_copy(update={"inputs": (TensorSpec(name="input", shape=(-1, 1, 6, 6)),)})


def _same(task: Task) -> Task:
    return task


class Bench:
    """Runs the stage; `timers` are those that it made, `law` what files take."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.timers: list[FakeTimer] = []
        self.task = image_classifier(DATA)
        self.use(Law(granule=1))
        monkeypatch.setattr("pipeline.pricing.pricer.DRAWN", 10)
        monkeypatch.setattr("pipeline.pricing.pricer.ADDED", 4)
        monkeypatch.setattr("pipeline.pricing.pricer._SHARES", 4)
        monkeypatch.setattr("pipeline.pricing.fit.GRANULES", (4, 1))
        monkeypatch.setattr("pipeline.pricing.interactions.ROUNDS", 1)
        monkeypatch.setattr("pipeline.pricing.interactions.DRAWN", 1)
        self.fresh_cache("cache")

    def use(self, law: Law, **settings: object) -> None:
        """Let files take what a law says."""
        self.law = law
        self.patch.setattr("pipeline.pricing.opening.FileTimer", timers(self.timers, law=law, **settings))
        self.patch.setattr("pipeline.pricing.pricer.node_times", FakeTimer(law).profile)

    def fresh_cache(self, name: str) -> None:
        """Forget all probes."""
        self.patch.setenv("XDG_CACHE_HOME", str(self.folder / name))

    def run(
        self, given: Artifact, name: str, progress: Progress | None = None, *, batch: int = 1, **settings: object
    ) -> Outcome:
        """Run the stage in a folder, which may be there from a run that was killed."""
        (self.folder / name).mkdir(exist_ok=True)
        stage = prune(**{"target": {"latency": "0.6x"}, "images": 24, "align": 1, **settings}).following(())
        context = Context(
            self.folder / name,
            0,
            Target(batch=batch),
            given,
            lambda: self.task,
            progress=progress or SilentProgress(),
        )
        return stage.run(given, context)

    def share(self, given: Artifact, name: str, result: Artifact | None = None) -> float:
        """Return the time of a result's file as a share of the given network's."""
        times = []
        result = result or given.model_copy(update={"folder": self.folder / name})
        for number, artifact in enumerate((given, result)):
            folder = self.folder / f"{name}-{number}"
            folder.mkdir()
            task = self.task.for_inputs(artifact.inputs)
            context = Context(folder, 0, Target(), given, partial(_same, task))
            Export.model_validate({"kind": "export", "to": "onnx"}).run(artifact, context)
            times.append(self.law.ms(read_onnx(next(folder.glob("*.onnx")))))
        return times[1] / times[0]


def told(outcome: Outcome) -> LatencyTarget:
    """Return the record as a report reads it."""
    return LatencyTarget.model_validate(outcome.changed["latency"])
