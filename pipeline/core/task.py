"""What a network is for: what it is given, what its outputs mean, and how good they are. Loads numpy alone.

A `Task` is a kit and data. The kit says of one sample how the network's outputs become a prediction, and which metrics
compare that with a target. It is any object with these members: no base class has to be imported, so that the same file
runs in a bundle on a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.core.artifact import FrozenModel, TensorSpec
from pipeline.core.dataset import Dataset
from pipeline.core.errors import InputError, StageError
from pipeline.core.open_sizes import NOTHING_OPEN, sizes_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.core.dataset import Places, SplitName, TaskData
    from pipeline.core.feeds import Feeds
    from pipeline.core.open_sizes import OpenSizes, Sizes

#: Where the metrics of the kinds lie.
_KINDS = "pipeline.tasks."
#: Layouts of inputs by the number of their dimensions, the batch counted.
_LAYOUTS = {4: "NCHW"}
#: How far a share may lie outside its range.
_ROUNDING = 1e-6


class Metric(Protocol):
    """A score of predictions against targets: `statistic` looks at one sample, `compute` at those of all.

    `unit` is empty for a share between 0 and 1, which is shown in percent and whose changes are points. Where `is_mean`
    statistics are numbers.
    """

    @property
    def name(self) -> str:
        """What the metric is called, such as mAP."""

    @property
    def unit(self) -> str:
        """The unit of its values, such as dB."""

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that it can have."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is a better one."""

    @property
    def is_mean(self) -> bool:
        """Whether the score is the mean of the samples' statistics."""

    def statistic(self, prediction: Any, target: Any) -> Any:  # noqa: ANN401 - whatever the kit decodes and compares
        """Return what one sample contributes."""

    def compute(self, statistics: Sequence[Any]) -> float:
        """Return the score of the samples with these statistics."""


class Kit(Protocol):
    """What a kind of task makes of one sample. The first of `metrics` is the one that is judged."""

    @property
    def kind(self) -> str:
        """The kind of task, by its name in a recipe."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """How predictions are compared with targets."""

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> Any:  # noqa: ANN401 - whatever the metrics compare
        """Return the prediction for one sample from the network's outputs by name, without batch axis."""


class MetricFacts(FrozenModel):
    """What has to be known of a metric to write its values: see `Metric`. A bound that is absent is infinite."""

    name: str
    unit: str = ""
    low: float | None = 0.0
    high: float | None = 1.0
    higher_is_better: bool = True

    @property
    def is_share(self) -> bool:
        """Whether values are shares between 0 and 1, written in percent; their changes are points."""
        return not self.unit


#: What an image classifier is judged by.
ACCURACY = MetricFacts(name="accuracy")


def facts_of(metric: Metric) -> MetricFacts:
    """Return what has to be known of a metric to write its values."""
    low, high = (float(bound) if np.isfinite(bound) else None for bound in metric.range)
    return MetricFacts(name=metric.name, unit=metric.unit, low=low, high=high, higher_is_better=metric.higher_is_better)


@dataclass(frozen=True)
class Task:
    """A kit and data. `output_names` are those of the network's outputs, in order; empty: its code names them.

    `sizes` says which sizes of its inputs exported files leave open. `resized` gives the same task with square images
    of another side, read from their files again; None where the data have no size that can be chosen.
    """

    kit: Kit
    data: TaskData
    output_names: tuple[str, ...] = ()
    sizes: OpenSizes = NOTHING_OPEN
    resized: Callable[[int], Task] | None = None

    @property
    def kind(self) -> str:
        """The kind of task, by its name in a recipe."""
        return self.kit.kind

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics; the first is the one that is judged."""
        return tuple(self.kit.metrics)

    @property
    def judged(self) -> MetricFacts:
        """What has to be known of the metric that is judged."""
        return facts_of(self.metrics[0])

    @property
    def images(self) -> Dataset | None:
        """The images of an image classifier; None for other tasks."""
        return self.data if isinstance(self.data, Dataset) else None

    def dataset(self) -> Dataset:
        """Return the images of an image classifier. Raises StageError for another task."""
        if self.images is None:
            raise StageError(f"this needs the images of an image classifier, and the task is {self.kind}")
        return self.images

    def count(self, split: SplitName) -> int:
        """Return the number of samples in a split."""
        return self.data.count(split)

    def feeds(self, split: SplitName, places: Places) -> Feeds:
        """Return the inputs, each [N, ...], of the samples at these places, as the network takes them."""
        return self.data.feeds(split, places)

    def targets(self, split: SplitName, places: Places) -> Sequence[Any]:
        """Return the targets of the samples at these places."""
        return self.data.targets(split, places)

    def inputs(self, batch: int) -> tuple[TensorSpec, ...]:
        """Return the network's inputs in calls of `batch` samples."""
        return tuple(spec.model_copy(update={"shape": (batch, *spec.shape[1:])}) for spec in self._inputs)

    def at_size(self, side: int) -> Task:
        """Return the same task with square images of another side in pixels.

        Raises:
            InputError: the data have no size that can be chosen, or not this one; or their files cannot be read.
        """
        if self.resized is not None:
            return self.resized(side)
        raise InputError(
            f"{self.data.name}: its images cannot be had with {side} pixels a side, because its source has no key "
            "size, as folder and elpv have"
        )

    def for_inputs(self, inputs: Sequence[TensorSpec]) -> Task:
        """Return the task with images of the size that these inputs of a network have.

        That is the task itself where the data have no size that can be chosen, or the inputs leave it open.
        """
        side = inputs[0].shape[-1] if inputs else -1
        if self.resized is None or side < 1 or side == self._inputs[0].shape[-1]:
            return self
        return self.at_size(side)

    def other_sizes(self) -> list[Sizes]:
        """Return the sizes at which an export is tried beside the samples'; none where no size is open."""
        return self.sizes.others(self._inputs)

    def timed_shapes(self, batch: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shapes of inputs at each size that is timed, by its words; one without words where none is open.

        The first is what is reported where there is room for one.
        """
        if not self.sizes.axes:
            return {"": {}}
        inputs = self.inputs(batch)
        timed = self.sizes.timed or (self.sizes.own(inputs),)
        return {sizes_text(sizes): self.sizes.shapes(inputs, sizes) for sizes in timed}

    def first_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of inputs at the first size that is timed; nothing where no size is open."""
        return next(iter(self.timed_shapes(batch).values()))

    @cached_property
    def _inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=name, shape=values.shape, dtype=values.dtype.name, layout=_LAYOUTS.get(values.ndim, ""))
            for name, values in self.feeds("train", slice(0, 1)).items()
        )

    def predictions(self, outputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Return the prediction for each sample from outputs [N, ...] by name."""
        whole = getattr(self.kit, "decode_batch", None)
        if whole is not None:
            return list(whole(outputs))
        count = len(next(iter(outputs.values())))
        return [self.kit.decode({name: values[place] for name, values in outputs.items()}) for place in range(count)]


def statistics_of(metric: Metric, predictions: Sequence[Any], targets: Sequence[Any]) -> list[Any]:
    """Return what each sample contributes to a metric.

    Raises:
        InputError: a kind's own metric cannot compare a sample's prediction with its target; what a user's metric
            raises goes through.
    """
    found: list[Any] = []
    for pair in zip(predictions, targets, strict=True):
        try:
            found.append(metric.statistic(*pair))
        except (TypeError, ValueError) as error:
            if not type(metric).__module__.startswith(_KINDS):
                raise
            raise InputError(
                f"the metric {metric.name} cannot compare sample {len(found)} with its target: {error}"
            ) from error
    return found


def score_of(metric: Metric, statistics: Sequence[Any]) -> float:
    """Return a metric of samples with these statistics. Raises InputError when it is no number, or no such share."""
    found = float(metric.compute(statistics))
    said = f"the metric {metric.name} of {len(statistics)} samples is {found}"
    if not np.isfinite(found):
        raise InputError(f"{said}, expected a finite number: is there anything to judge in them?")
    low, high = metric.range
    if not metric.unit and not low - _ROUNDING <= found <= high + _ROUNDING:
        raise InputError(f"{said}, expected {low:g} to {high:g}, its range: give it a unit, or the range that it has")
    return found
