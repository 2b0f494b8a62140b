"""What compressing to a latency found: times before and after by layer and by move, and how well they were foretold."""

from __future__ import annotations

from operator import not_
from typing import Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.stage import Runtime
from pipeline.results.run import Interval

#: The key of a row's `changed` under which a `LatencyTarget` stands.
LATENCY = "latency"


class AskedLatency(FrozenModel):
    """What the recipe asks for: a factor of the unpruned network's file, or milliseconds."""

    factor: float | None = None
    milliseconds: float | None = None


class NearestLatencies(FrozenModel):
    """The nearest factors that can be reached, on either side of the one asked for; None where there is none."""

    below: float | None = None
    above: float | None = None


class LatencyFloor(FrozenModel):
    """The smallest factor that can be reached, and what sets it."""

    factor: float
    why: str


class CostModelFacts(FrozenModel):
    """How the model of times came about and how far it is off, as fractions, on states that it was not fitted to.

    `granules` are the steps of width in which the time of each class of operators rises. One that is not `trusted`
    decided nothing: every step was measured.
    """

    probes: int
    median_error: float
    p90_error: float
    trusted: bool
    seconds: float
    granules: dict[str, int] = Field(default={})


class LayerTimes(FrozenModel):
    """The share of one node of the file in its time, before and after; None where it left with its block."""

    name: str
    operator: str
    before_ms: float
    after_ms: float | None


class TriedSize(FrozenModel):
    """Images of one side in pixels, as a move: what was found, and in `why` for what reason they were not chosen.

    `ratio` is the time of the whole network's file at this size over that at the size that it was given, `loss` that on
    training samples with what else has to leave, before any training; None where it was not asked for.
    """

    side: int
    ratio: Interval | None = None
    loss: float | None = None
    why: str = ""


class LatencyMove(FrozenModel):
    """One thing that was taken from the network: widths before and after, of a block 1 and 0, of images their sides.

    Of a layer in factors they are its full rank and that of its last factor.

    The milliseconds are changes, below zero where time was saved. `damage` is what the search expected it to cost, in
    its own unit; `bought` says in words what it was taken for.
    """

    kind: Literal["channels", "block", "heads", "resolution", "rank"]
    name: str
    before: int
    after: int
    predicted_ms: float
    measured_ms: Interval | None = None
    damage: float | None = None
    bought: str = ""

    @property
    def saved_ms(self) -> float:
        """The milliseconds that it saves: measured where they are known, else predicted."""
        return -(self.measured_ms.value if self.measured_ms else self.predicted_ms)


class Correction(FrozenModel):
    """One file that was timed on the way: the factor that the model foretold, and the one that was measured."""

    predicted: float
    measured: float


class LatencyTarget(FrozenModel):
    """Where the milliseconds went.

    `whole_ms` is the time of the unpruned network's file in `precision`, `whole_float_ms` that of its float file, known
    of the network that the recipe starts from. `ratio` is the time of the pruned file, as it was measured, over
    `whole_ms`, `predicted` the same by the model. `met` is a ratio between 0.97 and 1.00 of what was asked for.
    `nearest` is there where it was not met: the nearest ratios that were tried on either side of that range. `undone`
    names moves that were taken back: they bought nothing.
    `sizes` are those of images that were looked at, where that was a move; with smaller ones, shares and the times
    before are those of the file at the size that was given, and granules and errors those of the model at the new one.
    """

    runtime: Runtime
    device: str
    threads: int
    precision: str
    asked: AskedLatency
    whole_ms: Interval
    whole_float_ms: Interval | None = None
    ratio: Interval
    predicted: float
    met: bool
    nearest: NearestLatencies | None = None
    floor: LatencyFloor | None = None
    model: CostModelFacts
    layers: tuple[LayerTimes, ...] = ()
    moves: tuple[LatencyMove, ...] = ()
    undone: tuple[str, ...] = ()
    corrections: tuple[Correction, ...] = ()
    sizes: tuple[TriedSize, ...] = Field(default=(), exclude_if=not_)

    @property
    def factor(self) -> float:
        """The factor that was asked for, also where milliseconds were."""
        return self.asked.factor or (self.asked.milliseconds or 0.0) / self.whole_ms.value

    @property
    def is_within(self) -> bool:
        """Whether the file takes no longer than was asked for: met, or faster, where no slower one lost less."""
        return self.met or self.ratio.value <= self.factor
