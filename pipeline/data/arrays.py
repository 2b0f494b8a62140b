"""Arrays that may be used for a task: every input and target is what its kit takes, in all three splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.dataset import SPLITS, Arrays, Dataset, Samples
from pipeline.core.errors import InputError
from pipeline.core.problems import refuse_problems
from pipeline.core.task import Task
from pipeline.data.checks import CHANNELS
from pipeline.tasks.kinds import open_kit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.tasks.config import KitTask

ADVICE = "Samples have inputs by name, each an array [N, ...], and N targets: see docs/tasks.md."
#: Kinds whose predictions number classes.
_WITH_CLASSES = frozenset({"classification", "multilabel", "segmentation", "detection", "token"})
_IMAGE_DIMENSIONS = 4


def image_classifier(dataset: Dataset) -> Task:
    """Return the task of an image classifier on its data."""
    return Task(open_kit("classification", classes=dataset.classes), dataset, ("logits",))


def kit_task(config: KitTask, data: Arrays | Dataset, where: str) -> Task:
    """Return the task of a kind on arrays, or on the images of a data set, where the kind takes class numbers.

    Raises:
        InputError: all that is wrong with the arrays for a task of this kind, or a setting that does not go with it.
    """
    arrays = _of_images(data) if isinstance(data, Dataset) else data
    refuse_problems(where, [*_array_problems(arrays)], ADVICE)
    if config.kind in _WITH_CLASSES and not arrays.classes:
        raise InputError(f"{where}: a task of the kind {config.kind} needs the names of its classes: give classes")
    settings = config.model_dump(exclude={"kind", "dynamic", "timed"})
    statistics = arrays.normalisation
    if statistics:
        settings |= {"mean": statistics.mean, "std": statistics.std}
    if config.kind in _WITH_CLASSES:
        settings["classes"] = arrays.classes
    try:
        kit = open_kit(config.kind, **settings)
    except ValueError as error:
        raise InputError(f"task: {error}") from error
    problems = [f"{name}: {text}" for name in SPLITS for text in _target_problems(kit, arrays.split(name))]
    refuse_problems(where, problems, ADVICE)
    return Task(kit, arrays)


def _target_problems(kit: Any, samples: Samples) -> Iterator[str]:  # noqa: ANN401 - kits share a protocol and no class
    """Yield what is wrong with targets: by themselves, then against the image that they belong to."""
    targets = [*samples.targets]
    problems = kit.check_targets(targets)
    image = next((each for each in samples.inputs.values() if each.ndim == _IMAGE_DIMENSIONS), None)
    if not problems and image is not None and kit.kind == "detection":
        problems = kit.check_places(targets, *image.shape[2:])
    yield from problems


def _of_images(data: Dataset) -> Arrays:
    train, validation, test = (Samples({"input": s.images}, s.labels) for s in map(data.split, SPLITS))
    return Arrays(data.name, train, validation, test, data.classes, data.normalisation, data.licence, data.notes)


def _array_problems(arrays: Arrays) -> Iterator[str]:
    """Yield what is wrong with inputs, whatever the kind of task."""
    if not isinstance(arrays.classes, (tuple, list)) or not all(isinstance(each, str) for each in arrays.classes):
        yield f'classes is {arrays.classes!r}, allowed: the names of classes, ("bolt", "nut")'
    shapes: dict[str, dict[str, tuple[Any, ...]]] = {}
    for split in SPLITS:
        samples = arrays.split(split)
        if broken := [*_sample_problems(samples)]:
            yield from (f"{split}: {each}" for each in broken)
            continue
        for name, values in samples.inputs.items():
            if not isinstance(values, np.ndarray):
                yield f"{split}: the input {name} is a {type(values).__name__}, allowed: an array [N, ...]"
            elif len(values) != len(samples):
                yield f"{split}: {len(values):,} of the input {name}, but {len(samples):,} targets, allowed: as many"
            else:
                shapes.setdefault(name, {})[split] = (values.dtype.name, *values.shape[1:])
                yield from _value_problems(f"{split}: the input {name}", values)
    for name, found in shapes.items():
        if len({*found.values()}) > 1 or len(found) < len(SPLITS):
            yield f"the input {name} differs between splits: {found}, allowed: one type and shape in all three"


def _sample_problems(samples: Samples) -> Iterator[str]:
    """Yield what keeps the samples of a split from being looked at."""
    if not isinstance(samples, Samples):
        yield f"found a {type(samples).__name__}, allowed: Samples(inputs, targets)"
        return
    inputs, targets = samples.inputs, samples.targets
    if not isinstance(inputs, Mapping) or not inputs or not all(isinstance(name, str) and name for name in inputs):
        found = f"the keys {[*inputs]}" if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
        yield f'inputs have {found}, allowed: arrays by name, {{"image": images}}'
    if isinstance(targets, (str, Mapping)) or not hasattr(targets, "__len__") or not hasattr(targets, "__getitem__"):
        yield f"targets are a {type(targets).__name__}, allowed: an array [N, ...] or a list of N"
    elif not len(targets):
        yield "no samples, allowed: one or more"


def _value_problems(what: str, values: np.ndarray[Any, Any]) -> Iterator[str]:
    if values.dtype == np.uint8 and values.ndim == _IMAGE_DIMENSIONS and _channels_last(*values.shape[1:]):
        yield f"{what} has the shape {[*values.shape]}, channels last, allowed: [N, C, H, W]: .transpose(0, 3, 1, 2)"
    if values.dtype == np.float64:
        yield f"{what} is float64, allowed: what the network takes: .astype(numpy.float32)"
    elif values.dtype.kind not in "fiub":
        yield f"{what} is {values.dtype}, allowed: numbers"
    elif values.dtype.kind == "f" and not np.isfinite(values).all():
        first = int(np.argwhere(~np.isfinite(values))[0][0])
        yield f"{what} holds values that are NaN or infinite, first in sample {first}: fix where they come from"


def _channels_last(channels: int, height: int, width: int) -> bool:
    """Say whether an image whose axes are taken for these has its channels in the place of the width."""
    return width in CHANNELS and channels not in CHANNELS and height not in CHANNELS
