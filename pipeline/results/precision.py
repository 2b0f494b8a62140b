"""What the search for a precision found: every candidate file with its accuracy and latency, and why one was chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.stage import Runtime
from pipeline.core.task import ACCURACY, MetricFacts
from pipeline.results.run import Interval

#: The key of a row's `changed` under which a `PrecisionPlan` stands.
PLAN = "plan"
#: `chosen` ships; `kept` would do but another is better; `dropped` is out, `reason` says why; `missing`: not installed.
State = Literal["chosen", "kept", "dropped", "missing"]


class CandidateFile(FrozenModel):
    """One file that was tried.

    `label` names it in words; `engine` is None for the float file. `recovery` are the steps that brought accuracy back,
    `float_nodes` the nodes that were left in float on purpose. `decibels` is the signal-to-quantization-noise ratio of
    the logits on training images that were not calibrated on. `accuracy` is that of the exported file in the target's
    runtime on the validation split, `difference` its paired difference to the float file (a fraction, not points).
    `speedup` is the paired ratio to the float file on the target, above 1 when faster. `saturated` is how many sums per
    image would be clipped on a CPU without VNNI; None where it cannot happen or was not counted.
    """

    label: str
    state: State
    reason: str = ""
    engine: str | None = None
    precision: str
    scheme: str | None = None
    calibration: str | None = None
    recovery: tuple[str, ...] = ()
    float_nodes: tuple[str, ...] = ()
    size_bytes: int | None = None
    decibels: float | None = None
    accuracy: float | None = None
    difference: Interval | None = None
    speedup: Interval | None = None
    milliseconds: Interval | None = None
    saturated: float | None = None


class LayerChoice(FrozenModel):
    """One layer, or a family of layers, that was tried in float: what it brought in accuracy and cost in time."""

    name: str
    nodes: tuple[str, ...]
    decibels_gained: float | None = None
    speedup: Interval | None = None
    left_in_float: bool
    reason: str


class PrecisionPlan(FrozenModel):
    """Everything that was tried for one target. The first candidate is the float file."""

    runtime: Runtime
    device: str
    threads: int
    facts: str
    facts_source: str
    flags: tuple[str, ...]
    accuracy_drop: float = Field(description="How much may be lost on the validation split, such as points.")
    drop_unit: str = Field(default="pt", description="The unit of accuracy_drop.", exclude_if="pt".__eq__)
    metric: MetricFacts = Field(
        default=ACCURACY, description="What `accuracy` is of each candidate.", exclude_if=ACCURACY.__eq__
    )
    calibration_images: int
    calibration_moved: dict[int, float] = Field(default={})
    validation_images: int
    candidates: tuple[CandidateFile, ...]
    layers: tuple[LayerChoice, ...] = ()
    chosen: int
    seconds: float

    @property
    def winner(self) -> CandidateFile:
        """The file that ships."""
        return self.candidates[self.chosen]
