"""A timer without a clock: what a file takes follows from the sizes of its weights, by a law that a test chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, exp, log, prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from onnx import load

from pipeline.analysis.times import NodeTimes
from pipeline.core.errors import DeviceError
from pipeline.core.stage import SilentProgress, Target
from pipeline.measure.statistics import LogRatio
from pipeline.pricing.timing import PairedRatio, TimedFiles
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.stage import Progress
    from pipeline.measure.devices import Device


@dataclass(frozen=True)
class Law:
    """Milliseconds of a file: an overhead, a call of each node, and the products of its weights' sizes.

    The first two sizes of a weight are rounded up to `granule`. A layer of an odd number of granules takes `cliff`
    times as long, which no product of sizes does. With `side` work grows with the area of the file's images, which is 1
    at that side.
    """

    overhead: float = 0.05
    call: float = 0.004
    value: float = 2e-5
    granule: int = 4
    cliff: float = 1.0
    side: int = 0

    def node_ms(self, model: ModelProto) -> dict[str, float]:
        """Return the milliseconds of each node."""
        sizes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
        last = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
        area = (last / self.side) ** 2 if self.side else 1.0
        times = {}
        for node in model.graph.node:
            weights = [sizes[name] for name in node.input if len(sizes.get(name, ())) > 1]
            times[node.name] = self.call + area * self.value * sum(map(self._work, weights))
        return times

    def ms(self, model: ModelProto) -> float:
        """Return the milliseconds of a file."""
        return self.overhead + sum(self.node_ms(model).values())

    def _work(self, dims: Sequence[int]) -> float:
        granules = [ceil(size / self.granule) for size in dims[:2]]
        return prod(granules) * self.granule**2 * prod(dims[2:]) * self.cliff ** (sum(granules) % 2)


@dataclass
class FakeTimer:
    """Has the members of `FileTimer` that a `Pricer` uses; `measured` counts the files it was given beside the first.

    From one measurement to the next the device gets slower by `drift`; single ratios are off by `noise`. After
    `lasts` measurements the device goes away with `message`.
    """

    law: Law = field(default_factory=Law)
    noise: float = 0.0
    drift: float = 0.0
    lasts: int | None = None
    message: str = "the board went away"
    target: Target = field(default_factory=Target)
    device: Device | None = None
    progress: Progress = field(default_factory=SilentProgress)
    measured: int = 0
    calls: int = 0

    def timed(self, whole: Path, files: Sequence[Path], seconds: float) -> TimedFiles:
        """Return what the law says."""
        assert seconds > 0
        if self.lasts is not None and self.calls >= self.lasts:
            raise DeviceError(self.message)
        self.calls += 1
        slower = exp(self.drift * self.calls)
        generator = np.random.default_rng(self.calls)
        base, *others = (slower * self.law.ms(load(file)) for file in (whole, *files))
        self.measured += len(others)
        ratios = tuple(_paired(log(each / base) + generator.normal(0, self.noise), self.noise) for each in others)
        return TimedFiles(ratios, _interval(base, 0.001), cast("Any", None))

    def profile(self, file: Path, *_args: object, **_settings: object) -> NodeTimes:
        """Return what the law says of each node, as a runtime's profiler does."""
        kernels = tuple(_Kernel(name, ms * 1e6) for name, ms in self.law.node_ms(load(file)).items())
        return NodeTimes("onnxruntime", "1", 1, 1, cast("Any", kernels))


@dataclass(frozen=True)
class _Kernel:
    name: str
    nanoseconds: float
    own: bool = True


def ratio_of(value: float, error: float = 0.002) -> PairedRatio:
    """Return a measured ratio."""
    return _paired(log(value), error)


def _paired(centre: float, error: float) -> PairedRatio:
    error = max(error, 0.002)
    return PairedRatio(LogRatio(centre, error), _interval(exp(centre), error))


def _interval(value: float, error: float) -> Interval:
    return Interval(value=value, low=value * exp(-2 * error), high=value * exp(2 * error))


def timers(made: list[FakeTimer], **settings: Any) -> Callable[..., FakeTimer]:  # noqa: ANN401 - any field's
    """Return what stands for `FileTimer`; the timers that it made are added to `made`."""

    def make(target: Target, _shapes: object, _seed: int, device: Device | None, progress: Progress) -> FakeTimer:
        made.append(FakeTimer(target=target, device=device, progress=progress, **settings))
        return made[-1]

    return make
