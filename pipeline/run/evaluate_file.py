"""The score of any exported file by a recipe's task, whoever made the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.analysis.predictions import predict_samples
from pipeline.core.artifact import FrozenModel, TensorSpec
from pipeline.core.errors import InputError
from pipeline.core.runtimes import (
    DEFAULT_RUNTIME,
    FORMS,
    RUNTIMES,
    form_of,
    load_reference,
    runtime_for,
    shipping_runtimes,
)
from pipeline.core.user_code import user_code_errors
from pipeline.data import load_task
from pipeline.results.run import Score, TaskFacts
from pipeline.results.scores import score_predictions, task_facts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.core.dataset import SplitName
    from pipeline.core.stage import Progress, Runtime
    from pipeline.core.task import Task
    from pipeline.recipe import LoadedRecipe


class FileScore(FrozenModel):
    """What a file scores on one split, in one runtime, by a task."""

    file: str
    runtime: str
    split: str
    task: TaskFacts
    score: Score


def evaluate_file(
    file: Path, loaded: LoadedRecipe, *, split: SplitName, runtime: Runtime | None, threads: int, progress: Progress
) -> FileScore:
    """Run a file on every sample of a split and score its predictions.

    Args:
        file: an ONNX file or an OpenVINO IR; its inputs and outputs are those of the recipe's network, in that order.
        loaded: the recipe whose task and data are taken.
        split: the test split should be looked at once, when everything is decided.
        runtime: None for the target's, or another that reads the file.
        threads: of the runtime.
        progress: told how far it is.

    Raises:
        InputError: the file cannot be read or run, its inputs or outputs do not fit the task, or data are missing.
        StageError: its outputs are not finite.
    """
    opened = open_scored(file, loaded, runtime)
    task = opened.task
    predictions = predict_samples(
        file,
        task,
        split,
        runtime=opened.runtime,
        threads=threads,
        batch=opened.batch,
        output_names=opened.outputs,
        progress=progress,
    )
    with user_code_errors(f"the score on the {split} split cannot be computed"):
        score = score_predictions(task.metrics, predictions, task.targets(split, slice(None)))
    return FileScore(file=str(file), runtime=opened.runtime, split=split, task=task_facts(task), score=score)


@dataclass(frozen=True)
class ScoredFile:
    """How a file is run for a task: in which runtime, in calls of how many samples, and what its outputs are called."""

    task: Task
    runtime: Runtime
    batch: int
    outputs: tuple[str, ...]


def open_scored(file: Path, loaded: LoadedRecipe, runtime: Runtime | None) -> ScoredFile:
    """Load a recipe's task and check that a file fits it. Arguments and errors are those of `evaluate_file`."""
    recipe = loaded.recipe
    form = form_of(file)
    if not file.exists():
        raise InputError(f"{file} does not exist: expected {RUNTIMES[DEFAULT_RUNTIME].files}")
    if form is None or not file.is_file():
        raise InputError(f"{file} is no exported file: expected {RUNTIMES[DEFAULT_RUNTIME].files}")
    chosen = runtime or runtime_for(form, recipe.target.runtime)
    if chosen not in _readers(form):
        raise InputError(f"{chosen} does not read {file.name}, allowed: {', '.join(_readers(form))}")
    inputs, outputs = load_reference(FORMS[form].ports)(file)
    task = load_task(recipe.task, recipe.data).for_inputs(inputs)
    batch = inputs[0].shape[0] if inputs[0].shape[0] > 0 else recipe.target.batch
    _require_fit(file, task, inputs, batch)
    return ScoredFile(task, chosen, batch, tuple(output.name for output in outputs))


def _readers(form: str) -> list[str]:
    return [name for name in shipping_runtimes() if form in RUNTIMES[name].reads]


def _require_fit(file: Path, task: Task, inputs: Sequence[TensorSpec], batch: int) -> None:
    """Raise InputError where a file takes other inputs than the task gives."""
    found, given = (
        {spec.name: (spec.dtype, tuple(spec.shape[1:])) for spec in specs} for specs in (inputs, task.inputs(batch))
    )
    fits = found.keys() <= given.keys() and all(
        dtype == given[name][0] and len(shape) == len(given[name][1])
        and all(a in {-1, b} for a, b in zip(shape, given[name][1], strict=True))
        for name, (dtype, shape) in found.items()
    )  # fmt: skip
    if not fits:
        raise InputError(
            f"{file.name} takes {_shown(found)}; the recipe's task gives {_shown(given)}. Names, types and sizes must "
            "be the same: export with input_names, or rename the inputs of the data"
        )


def _shown(ports: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in ports.items())
