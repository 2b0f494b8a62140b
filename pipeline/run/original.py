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

    from torch import nn

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
    """Build a network, or load a stored one, give it its weights, check it, and write it into a folder.

    Raises:
        InputError: it cannot be built or loaded, the weights do not fit, or it does not do the task.
        StageError: weights for a stored network lack zeros or equal values that it is to keep.
    """
    import torch

    from pipeline.network.definition import build_network, initialise_lazy_layers
    from pipeline.network.soundness import check_network
    from pipeline.network.stored import load_network, stored_artifact, write_network, write_original

    torch.manual_seed(seed)
    if given.stored:
        parent = stored_artifact(given.stored).model_copy(update={"inputs": inputs})
        model = load_network(parent)
        _give_weights(model, given, folder, progress)
        outputs = check_network(model, task, inputs)
        write_network(folder, model, parent=parent)
    else:
        with recorded_dependencies(given.definition) as read:
            model = build_network(given.definition, given.arguments)
            initialise_lazy_layers(model, inputs)
        _note_undeclared(given, read, progress)
        _give_weights(model, given, folder, progress)
        outputs = check_network(model, task, inputs)
        write_original(folder, model, given.definition, given.arguments, inputs, reads=bool(read))
    return Artifact(form="torch", folder=folder, digest=payload_digest("torch", folder), inputs=inputs, outputs=outputs)


def _give_weights(model: nn.Module, given: ModelConfig, folder: Path, progress: Progress) -> None:
    """Load the weights that a recipe names, if any, and say and keep what of them did not fit."""
    from pipeline.network.weights import load_weights, read_weights

    if given.weights:
        tensors = read_weights(given.weights, given.weights_key)
        unfit = load_weights(model, tensors, str(given.weights), prefix=given.strip_prefix, strict=given.strict)
        _record_unfit(unfit.record(), folder, progress)


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
