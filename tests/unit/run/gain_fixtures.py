"""Latencies that a scene says, in place of those of a device, for stages that have to bring a gain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.core.stage import Context, OnNoGain, Outcome, Stage
from pipeline.measure.sampling import sample
from tests.unit.measure.replay import Replay, Scene, gather, plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.artifact import Artifact, Form
    from pipeline.measure.subjects import MeasureTerms, Subject
    from pipeline.results.measurement import Measurement, SamplingPlan

#: The first subject is what there was before: a time of 1.25 beside 1.0 is a gain.
FAST = Scene(wall=(1.25, 1.0))
SLOW = Scene(wall=(1.0, 1.2))
UNCLEAR = Scene(wall=(1.0, 1.0))
#: Other work ran on the cores while the first subject was timed: only the wall clock sees a gain.
CONTENDED = Scene(wall=(1.3, 1.0), cpu=(1.0, 1.0))


class Scenes:
    """Stands for `pipeline.measure.harness.measure_subjects`: plays a scene and remembers what was asked."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.calls: list[tuple[Sequence[Subject], MeasureTerms, SamplingPlan]] = []

    def __call__(
        self, subjects: Sequence[Subject], terms: MeasureTerms, plan: SamplingPlan, **given: object
    ) -> Measurement:
        """Measure two subjects; the sampling ends where `stop` says."""
        self.calls.append((subjects, terms, plan))
        scene, short = self.scene, plan_of(14, strict=plan.strict)
        sampled = sample(
            Replay(scene, seed=given["seed"], sessions=short.max_sessions),
            len(subjects),
            plan=short,
            seed=given["seed"],
            stop=lambda samples, conditions: given["stop"](gather(scene, short, samples, conditions=conditions)),
        )
        return gather(scene, short, sampled.samples, stopped=sampled.stopped, conditions=sampled.conditions)


class Nudge(Stage):
    """Adds a number to every tensor of a torch network. `amount` 0 gives the same network."""

    kind: Literal["nudge"] = "nudge"
    amount: float = 0.1

    @property
    def consumes(self) -> frozenset[Form]:
        """Torch networks."""
        return frozenset({"torch"})

    def produces(self, given: Form) -> Form:
        """Return the same form."""
        return given

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Count the call in the folder above the store, and write the network."""
        import torch  # noqa: PLC0415 - like any stage

        from pipeline.network.stored import load_network, write_network  # noqa: PLC0415

        with (context.folder.parents[2] / "nudges.txt").open("a") as calls:
            calls.write(f"{self.amount}\n")
        model = load_network(given)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(self.amount)
        write_network(context.folder, model, parent=given)
        return Outcome("torch", given.inputs, given.outputs, changed={"amount": self.amount})


def nudge(amount: float, on_no_gain: OnNoGain) -> Nudge:
    """Return the stage."""
    return Nudge(amount=amount, on_no_gain=on_no_gain)
