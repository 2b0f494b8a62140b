"""What a network's file costs on one device at other widths: the measured probes, and what a model made of them."""

from __future__ import annotations

from operator import not_
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.artifact import FrozenModel
from pipeline.core.stage import Runtime
from pipeline.results.run import Interval

SCHEMA_VERSION: Literal[1] = 1
_LARGEST_LOG_RATIO = 20.0


class ProbedState(FrozenModel):
    """One measured state of the network: kept widths of the groups that were narrowed, and blocks that were dropped.

    `log_ratio` is log(time / time of the whole network's file), `error` its standard error.
    """

    widths: dict[str, int]
    dropped: tuple[str, ...] = ()
    log_ratio: float
    error: float = Field(gt=0)


class ClassPrice(FrozenModel):
    """What the operators of one class take of the whole file; `granule` is absent where no probe could tell it."""

    name: str
    layers: int
    milliseconds: float
    granule: int | None = None


class LayerPrice(FrozenModel):
    """What one layer takes of the whole file."""

    name: str
    operator: str
    milliseconds: float


class ModelError(FrozenModel):
    """How far predictions of held-out probes are from what was measured, as fractions; not `trusted` beyond limits."""

    median: float
    p90: float
    trusted: bool


class PriceFloor(FrozenModel):
    """The least that any allowed state takes, as a fraction of the whole file, and what it consists of in ms."""

    factor: float
    parts: dict[str, float]


class FittedPrices(FrozenModel):
    """What the model says of the whole file."""

    error: ModelError
    floor: PriceFloor
    classes: tuple[ClassPrice, ...]
    layers: tuple[LayerPrice, ...]


class SizePrice(FrozenModel):
    """What the whole file takes with images of another side in pixels, as a share of its time at the given one."""

    side: int
    ratio: Interval


class CostProfile(FrozenModel):
    """Probes of a network on a device. `whole` is the unpruned file's time on the wall clock, in ms.

    `nodes` are the milliseconds of its nodes by the runtime's profiler; none where it has none.
    `fitted` is absent while probing is not finished, and where no model could be fitted. `sizes` are there where
    smaller images were asked for.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    network: str
    precision: str
    runtime: Runtime
    runtime_version: str
    threads: int
    batch: int
    device: str
    fingerprint: dict[str, Any]
    whole: Interval
    nodes: dict[str, float] | None = None
    probes: tuple[ProbedState, ...] = ()
    seconds: float = 0.0
    fitted: FittedPrices | None = None
    sizes: tuple[SizePrice, ...] = Field(default=(), exclude_if=not_)

    @model_validator(mode="after")
    def _require_times(self) -> Self:
        """A record that was damaged by hand is no profile: no file takes no time, or 10^9 times that of another."""
        nodes = self.nodes or {}
        if not self.whole.value > 0 or any(ms < 0 for ms in nodes.values()) or (nodes and not any(nodes.values())):
            raise ValueError("found times that are not above zero, allowed: milliseconds of a file and of its nodes")
        if any(abs(probe.log_ratio) > _LARGEST_LOG_RATIO for probe in self.probes):
            raise ValueError(f"found a log_ratio that is no ratio of two times, allowed: to {_LARGEST_LOG_RATIO:.0f}")
        return self


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile."""
    return CostProfile.model_json_schema()
