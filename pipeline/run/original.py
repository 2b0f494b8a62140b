"""The first artifact of a run: the network that a recipe starts from, with its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.artifact import Artifact, StageRecord, payload_digest
from pipeline.core.code_inputs import recorded_dependencies, undeclared_inputs
from pipeline.core.problems import first_names
from pipeline.core.store import write_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.core.artifact import TensorSpec
    from pipeline.core.stage import Progress
    from pipeline.core.task import Task
    from pipeline.recipe import ModelConfig

#: What becomes of tensors that do not fit.
_LEFT = {
    "missing": "the file lacks, as build makes them",
    "unknown": "the network lacks, left out",
    "shape": "of another shape, as build makes them",
}


def make_original(
    given: ModelConfig,
    task: Task,
    inputs: tuple[TensorSpec, ...],
    seed: int,
    folder: Path,
    progress: Progress,
) -> Artifact:
    """Build a network, give it its weights, check it, and write it into a folder.

    Raises InputError: it cannot be built, the weights do not fit, or it does not do the task.
    """
    import torch

    from pipeline.network.definition import build_network, initialise_lazy_layers
    from pipeline.network.soundness import check_network
    from pipeline.network.stored import write_original
    from pipeline.network.weights import load_weights, read_weights

    torch.manual_seed(seed)
    with recorded_dependencies(given.definition) as read:
        model = build_network(given.definition, given.arguments)
        initialise_lazy_layers(model, inputs)
    _note_undeclared(given, read, progress)
    if given.weights:
        tensors = read_weights(given.weights, given.weights_key)
        unfit = load_weights(model, tensors, str(given.weights), prefix=given.strip_prefix, strict=given.strict)
        _record_unfit(unfit.record(), folder, progress)
    outputs = check_network(model, task, inputs)
    write_original(folder, model, given.definition, given.arguments, inputs, reads=bool(read))
    return Artifact(form="torch", folder=folder, digest=payload_digest("torch", folder), inputs=inputs, outputs=outputs)


def _note_undeclared(given: ModelConfig, read: set[Path], progress: Progress) -> None:
    """Say which files the definition depends on that are no part of its key."""
    if given.libraries:  # the package's version decides, and it keeps its own weights
        return
    named = (*given.inputs, *([given.weights] if given.weights else []))
    for note in undeclared_inputs(read, given.definition, given.arguments, named, "build model"):
        progress.note(f"model: {note}")


def _record_unfit(unfit: Mapping[str, Sequence[str]], folder: Path, progress: Progress) -> None:
    """Say what of the weights was not loaded, and keep it for the report."""
    for kind, names in unfit.items():
        progress.note(f"model.weights: {len(names)} tensors {_LEFT[kind]}: {first_names(names)}")
    if unfit:
        changed = {"not_loaded": {kind: list(names) for kind, names in unfit.items()}}
        write_record(
            StageRecord(kind="original", revision=1, config={}, parent_digest="", seconds=0.0, changed=changed), folder
        )
