"""What `secateur doctor` found on a device: how far apart it measures two copies of one file, and what disturbs it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.stage import Runtime

SCHEMA_VERSION: Literal[1] = 1
Level = Literal["ok", "warn"]
Clock = Literal["wall", "cpu"]


class Check(FrozenModel):
    """One thing that decides how well a device measures: whether it is as it should be, and what to do if not."""

    name: str
    level: Level
    text: str


class CopyNoise(FrozenModel):
    """The ratios (copy over original) that A/A comparisons found on one clock; in truth each is 1.

    `q95` is the 95th percentile of |ratio - 1|, `deviation` the standard deviation of log(ratio).
    """

    ratios: tuple[float, ...] = Field(min_length=2)
    q95: float
    deviation: float


class DoctorReport(FrozenModel):
    """A device's noise and its checks, for one version of a runtime and a number of threads.

    Each A/A comparison took about `seconds`. `smallest_margin` is the honest one for comparisons as long as that: twice
    the q95 of the clock that decides. `interrupted_share` is that of blocks; shares go from 0 to 1, and what could not
    be read is absent.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    tool_version: str
    created: str
    device: str
    runtime: Runtime
    runtime_version: str
    threads: int
    fingerprint: dict[str, Any]
    budget_s: float
    seconds: float
    inference_ms: float
    clock: Clock
    wall: CopyNoise
    cpu: CopyNoise
    smallest_margin: float
    interrupted_share: float
    steal: float | None = None
    load: float | None = None
    checks: tuple[Check, ...]

    @property
    def noise(self) -> CopyNoise:
        """The noise of the clock that decides."""
        return self.wall if self.clock == "wall" else self.cpu
