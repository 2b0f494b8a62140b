"""What an exported file predicts for the samples of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.classification import NO_CLASS
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import SilentProgress
from pipeline.core.user_code import user_code_errors
from pipeline.measure.batches import run_in_batches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.dataset import SplitName
    from pipeline.core.stage import Progress, Runtime
    from pipeline.core.task import Task


def predict_samples(
    file: Path,
    task: Task,
    split: SplitName,
    *,
    runtime: Runtime,
    threads: int,
    batch: int,
    output_names: Sequence[str],
    what: str = "",
    undecided: bool = False,
    progress: Progress | None = None,
) -> list[Any]:
    """Return a file's prediction for every sample of a split, in calls of `batch` samples.

    `what` names the samples for messages; the split where it is empty. With `undecided` a classifier may have no answer
    for some images, which is then wrong.

    Raises:
        InputError: the runtime cannot run the file, or the task's own code cannot decode its outputs.
        StageError: outputs are not finite, so that nothing can be said of some samples.
    """
    what, progress = what or split, progress or SilentProgress()
    total = task.count(split)
    feeds = (task.feeds(split, range(start, min(start + batch, total))) for start in range(0, total, batch))
    found: list[Any] = []
    for outputs in run_in_batches(file, feeds, runtime=runtime, threads=threads, batch=batch):
        if not found:
            _require_fit(task, dict(zip(output_names, outputs, strict=True)), file.name)
        where = f"{len(found)} to {len(found) + len(outputs[0]) - 1} of {what}"
        with user_code_errors(f"the outputs of {file.name} for the samples {where} cannot be decoded"):
            made = task.predictions(dict(zip(output_names, outputs, strict=True)))
        if not (undecided and task.images):
            _require_finite(task, outputs, made, where)
        found += made
        progress.update(len(found), total, f"{task.judged.name} on {what}")
    return found


def _require_fit(task: Task, outputs: dict[str, NDArray[Any]], name: str) -> None:
    """Raise InputError for a file whose outputs [N, ...] are not those that the kind of task decodes."""
    check = getattr(task.kit, "check_outputs", None)
    if check and (problems := check({output: values.shape[1:] for output, values in outputs.items()})):
        raise InputError(f"{name} does not fit the task {task.kind}: {'; '.join(problems)}")


def _require_finite(task: Task, outputs: Sequence[NDArray[Any]], predictions: Sequence[Any], where: str) -> None:
    """Raise StageError for outputs of which nothing can be said: of a classifier the largest logit must be finite."""
    if task.images:
        undecided, samples, why = predictions.count(NO_CLASS), "images", ": there is no class to name"
    else:
        finite = [np.isfinite(each).reshape(len(each), -1).all(axis=1) for each in outputs if each.dtype.kind == "f"]
        undecided, samples, why = int((~np.logical_and.reduce(finite)).sum()) if finite else 0, "samples", ""
    if undecided:
        raise StageError(
            f"the exported file's outputs are not finite for {undecided} of the {samples} {where}{why}. "
            "Check its weights and what the stage changed: a learning rate that is too high, numbers beyond float16"
        )
