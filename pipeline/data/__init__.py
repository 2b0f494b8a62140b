"""Data sets and tasks by name or by path: loaded, and told apart by their content."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, assert_never

from pipeline.core.dataset import SPLITS, Arrays, Dataset
from pipeline.core.errors import InputError
from pipeline.core.open_sizes import checked_sizes
from pipeline.data.config import Cifar, DataFile, Elpv, FashionMnist, ImageFolder, at_side, with_size
from pipeline.tasks.config import TaskFile, task_settings

if TYPE_CHECKING:
    from pipeline.core.task import Task
    from pipeline.data.config import DataConfig, SizedData
    from pipeline.tasks.config import TaskConfig

__all__ = ["data_digest", "load_data", "load_task", "summarise_data", "task_identity"]


def load_task(config: TaskConfig | None, data: DataConfig | None) -> Task:
    """Return the task that a recipe says, on its data, loaded and checked; without a word it is a classifier of images.

    Raises:
        InputError: data or the task's file are missing or damaged, or not what they should be.
    """
    found = _with_open_sizes(config, data)
    resizable = None if isinstance(config, TaskFile) else with_size(data)
    return _resizable(found, config, resizable) if resizable else found


def _resizable(found: Task, config: TaskConfig | None, data: SizedData) -> Task:
    """Return a task that can be had at other sizes: of these the last one is kept, beside the task itself."""

    @lru_cache(maxsize=1)
    def other(side: int) -> Task:
        return replace(_with_open_sizes(config, at_side(data, side)), resized=resized)

    def resized(side: int) -> Task:
        return own if side == data.size else other(side)

    own = replace(found, resized=resized)
    return own


def _with_open_sizes(config: TaskConfig | None, data: DataConfig | None) -> Task:
    found = _task(config, data)
    where, opened, timed = "task", *((config.dynamic, config.timed) if config else ({}, ()))
    if isinstance(config, TaskFile):
        given = getattr(found.data, "given", None)
        where = str(config.path)
        opened = opened or getattr(given, "dynamic", {})
        timed = timed or tuple(getattr(given, "timed", ()))
    if not opened and not timed:
        return found
    return replace(found, sizes=checked_sizes(opened, timed, found.inputs(1), where))


def _task(config: TaskConfig | None, data: DataConfig | None) -> Task:
    if isinstance(config, TaskFile):
        from pipeline.data.task_file import load_task_file

        return load_task_file(config.path, config.arguments, config.inputs)
    from pipeline.data.arrays import image_classifier, kit_task

    if data is None:
        raise InputError("the recipe has no data, which a task of this kind needs")
    found = load_data(data)
    if isinstance(found, Dataset) and (config is None or config.kind == "classification"):
        if config is not None and config.label_smoothing:
            raise InputError(
                "task.label_smoothing is there for Arrays; of images with labels give it to the finetune stage"
            )
        return image_classifier(found)
    if config is None:
        raise InputError(f"data ({data.source}) are Arrays, and the recipe has no task: say which, task: {{kind: ...}}")
    return kit_task(config, found, f"data ({data.source})")


def task_identity(config: TaskConfig | None) -> dict[str, Any]:
    """Return what tells a task apart from others, as part of keys; nothing where the recipe says none."""
    if config is None:
        return {}
    found = task_settings(config)
    if isinstance(config, TaskFile):
        from pipeline.data import python_file

        found["digest"] = python_file.digest(config.path, config.arguments, config.inputs)
    return {"task": found}


def data_digest(config: DataConfig) -> str:
    """Return the sha256 of the data's content, without decoding it. Raises InputError that says how to get the data."""
    match config:
        case Elpv():
            from pipeline.data import elpv

            return elpv.digest()
        case FashionMnist():
            from pipeline.data import fashion_mnist

            return fashion_mnist.digest()
        case Cifar():
            from pipeline.data import cifar

            return cifar.digest(config.source, config.root)
        case ImageFolder():
            from pipeline.data import folder

            return folder.digest(config.root)
        case DataFile():
            from pipeline.data import python_file

            return python_file.digest(config.path, config.arguments, config.inputs)
        case _:
            assert_never(config)


def load_data(config: DataConfig) -> Dataset | Arrays:
    """Return the data set, decoded, split and, where it is one of images and labels, checked.

    Raises:
        InputError: it is missing or damaged, or its arrays are not what they should be; with all that is wrong.
    """
    from pipeline.data.accepted import accepted

    found = _load(config)
    return found if isinstance(found, Arrays) else accepted(found, f"data ({config.source})")


def _load(config: DataConfig) -> Dataset | Arrays:
    match config:
        case Elpv():
            from pipeline.data import elpv

            return elpv.load(config.size, config.channels, config.validation, config.split_seed)
        case FashionMnist():
            from pipeline.data import fashion_mnist

            return fashion_mnist.load(config.root, config.validation_images, config.split_seed)
        case Cifar():
            from pipeline.data import cifar

            return cifar.load(config.source, config.root, config.validation_images, config.split_seed)
        case ImageFolder():
            from pipeline.data import folder

            return folder.load(config.root, config.size, config.channels, config.mean, config.std, config.white)
        case DataFile():
            from pipeline.data import python_file

            return python_file.load(config.path, config.arguments, config.inputs)
        case _:
            assert_never(config)


def summarise_data(task: Task) -> dict[str, Any]:
    """Return what a report says about the data: name, classes and the number of samples in each split."""
    inputs = task.inputs(1)
    shapes = {spec.name: list(spec.shape[1:]) for spec in inputs}
    return {
        "name": task.data.name,
        "classes": list(task.data.classes),
        **{split: task.count(split) for split in SPLITS},
        **({"input_shape": shapes[inputs[0].name]} if len(inputs) == 1 else {"input_shapes": shapes}),
        **({"notes": list(task.data.notes)} if task.data.notes else {}),
    }
