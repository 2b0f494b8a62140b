"""Training of an artifact's network as a recipe says, resumable between epochs from a file in the stage's folder."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.pruning.allocation import uniform_kept
from pipeline.compress.pruning.graph import layer_of, trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.regularisation import BatchNormScale, GroupNorm, GrowingL2, squared_norms
from pipeline.compress.state.outside import fitting_state, outside_state, restore_state
from pipeline.compress.training.augmentation import Augmentation
from pipeline.compress.training.distillation import Distillation
from pipeline.compress.training.layout import fitting_layout
from pipeline.compress.training.learner import ImageClassifier
from pipeline.compress.training.task_learner import FileLearner, KitLearner
from pipeline.compress.training.training import Hyperparameters, TrainingRun
from pipeline.core.code_inputs import undeclared_inputs, within_inputs, write_reads
from pipeline.core.errors import InputError, first_line
from pipeline.core.partial import write_whole_with
from pipeline.network.clusters import tied_weights
from pipeline.network.hints import hints_of
from pipeline.network.masks import masks_of, sparse_names
from pipeline.network.stored import load_network, load_other, write_network
from pipeline.network.tracing import example_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from pipeline.compress.pruning.graph import Group
    from pipeline.compress.training.learner import Learner
    from pipeline.compress.training.training import EpochResult, Regulariser
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context, Progress
    from pipeline.network.training_config import Distill, Regularise, TrainingConfig

#: Fraction of its channels that `growing_l2` spares in every group, whatever its ratio.
_LEAST_KEPT = 0.1
#: Samples on which it is tried how a network's images may lie.
_TRIED = 2
#: What a training needs to go on after it was killed, in the stage's folder.
STATE_FILE = "training.pt"


def make_training(
    config: TrainingConfig,
    model: nn.Module,
    context: Context,
    *,
    given: Artifact,
    seed: int,
    regulariser: Regulariser | None = None,
) -> TrainingRun:
    """Return the training of a network (changed in place) on the run's data, at its start.

    `given` is the artifact that the network was loaded from: its plan tells which channels of the original it has.
    """
    settings = Hyperparameters(
        epochs=config.epochs,
        batch=config.batch,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        warmup=config.warmup,
        ema=config.ema,
        recalibration_images=config.recalibrate,
        schedule=config.schedule,
        from_fraction=config.rewound,
    )
    learner, distillation = learner_of(config, context), _distillation(config, model, given, context)
    learner.layout = _layout(model, learner, distillation)
    return TrainingRun(
        model,
        learner,
        settings,
        distillation=distillation,
        seed=seed,
        regulariser=regulariser,
    )


def _layout(model: nn.Module, learner: Learner, teacher: Distillation | None) -> torch.memory_format:
    """Return how images lie that both the network and its teacher can be run with."""
    inputs = next(learner.inputs(_TRIED, 0, torch.device("cpu")))
    found = [fitting_layout(model, lambda given: model(*given), inputs)]
    if teacher:
        found.append(fitting_layout(teacher.teacher, teacher.outputs, inputs))
    return torch.contiguous_format if torch.contiguous_format in found else torch.channels_last


def learner_of(config: TrainingConfig, context: Context) -> Learner:
    """Return what a training learns by: the classes of images, a kit's loss, or that of the task's own file."""
    task, names = context.task(), [output.name for output in context.original.outputs]
    changes = config.augment.model_dump()
    if task.images is not None:
        unknown = changes.keys() - {field.name for field in fields(Augmentation)}
        if unknown:
            raise InputError(f"augment.{min(unknown)} is not there for a classifier of images: remove it")
        augmentation = Augmentation(**changes)
        return ImageClassifier(
            task.images, config.batch, label_smoothing=config.label_smoothing, augmentation=augmentation
        )
    if config.label_smoothing:
        instead = "give it to the task" if task.kind == "classification" else "remove it"
        raise InputError(f"label_smoothing is there for a classifier of images, and the task is {task.kind}: {instead}")
    if task.kind != "file":
        return KitLearner(task, config.batch, names, changes)
    if any(changes.values()):
        raise InputError("augment is not there for a task of your own file: change samples in its train_batches")
    return FileLearner(task, config.batch, names)


def train_artifact(
    training: TrainingRun, given: Artifact, folder: Path, progress: Progress, *, label: str = "", half: bool = False
) -> nn.Module:
    """Train a network of the same structure as `given`, write it into `folder`, and return it.

    Weights that are zero in sparse parameters of `given` stay zero, and shared ones equal. Goes on from where an
    earlier, killed run in the same folder got to. `label` stands before the epoch in the progress; `half` as in
    `write_network`. Raises StageError when training diverges.
    """
    keep_structure(training, given)
    trained = run_to_end(training, folder, progress, label=label)
    network = trained_network(trained, given)
    write_network(folder, network, parent=given, half=half)
    (folder / STATE_FILE).unlink(missing_ok=True)
    return network


def keep_structure(training: TrainingRun, given: Artifact) -> None:
    """Let a training keep what earlier stages have made of an artifact's weights: zeros, and clusters."""
    training.hold(masks_of(training.model, sparse_names(given)))
    if (tied := tied_weights(training.model, given)).books:
        training.tie(tied)


def trained_network(trained: nn.Module, given: Artifact) -> nn.Module:
    """Return the network of an artifact with what a training of it has made of its tensors."""
    network = load_network(given)
    network.load_state_dict(trained.state_dict())
    restore_state(network, fitting_state(outside_state(trained), network))
    return network


def run_to_end(
    training: TrainingRun, folder: Path, progress: Progress, *, label: str = "", judge_start: bool = False
) -> nn.Module:
    """Train to the end, from where an earlier, killed run in the same folder got to; return the network.

    With `judge_start` the network as it was given is kept unless an epoch is better.

    The state stays in `folder` until the caller has written what it needs. Raises StageError when training diverges.
    """
    file = folder / STATE_FILE
    state = _state(file, training.device, progress)
    if state is not None:
        training.restore(state)
        progress.note(f"resumed {label}after epoch {training.epoch} of {training.settings.epochs}")
        _compare_threads(state.get("threads"), progress)
    elif judge_start and not training.done:
        training.judge_start()
    while not training.done:
        training.run_epoch(_reporter(training, progress, label))
        write_whole_with(file, partial(torch.save, training.state()))
    return training.finish()


def _state(file: Path, device: torch.device, progress: Progress) -> dict[str, Any] | None:
    """Return the state of a training that was ended; None where there is none, or none that can be read."""
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # noqa: BLE001 - zip, pickle and torch have no common root for a damaged file
        progress.note(f"{file} cannot be read ({first_line(error)}): this training starts over")
        return None
    return state


def _compare_threads(before: int | None, progress: Progress) -> None:
    """Say where a training goes on with another number of threads: sums are then added in another order."""
    now = torch.get_num_threads()
    if before not in {None, now}:
        progress.note(
            f"it began on {before} threads and continues on {now}, which sum in another order: it will not end with "
            f"the same bytes as with OMP_NUM_THREADS={before}"
        )


def removable_groups(model: nn.Module, given: Artifact) -> tuple[Group, ...]:
    """Return the groups of channels of an artifact's network. Raises InputError when no channel can be removed."""
    graph = trace_channels(capture_graph(model, example_of(given)))
    if not graph.groups:
        reasons = "; ".join(sorted({f"{layer_of(frozen.tensor)}: {frozen.reason}" for frozen in graph.frozen}))
        raise InputError(f"regularise: no channel of this network can be removed, so none is penalised. {reasons}")
    return graph.groups


def build_regulariser(config: Regularise, groups: Sequence[Group], model: nn.Module) -> Regulariser:
    """Return the penalty that a recipe asks for; what it pushes is chosen by the weights that `model` has now."""
    match config.method:
        case "group_lasso" | "group_norm" as method:
            return GroupNorm(groups, config.strength, alpha=config.alpha, squared=method == "group_norm")
        case "bn_scale":
            return BatchNormScale(groups, model, config.strength)
        case "growing_l2":
            norms = squared_norms(groups, dict(model.named_parameters(remove_duplicate=False)))
            kept = uniform_kept(norms, config.ratio, floor=_LEAST_KEPT, align=config.align)
            return GrowingL2(groups, kept, increment=config.strength, every=config.every, ceiling=config.ceiling)


def epoch_history(training: TrainingRun) -> list[dict[str, float]]:
    """Return what the epochs did, for the record."""
    return [
        {
            "epoch": result.epoch + 1,
            "training_loss": round(result.loss, 5),
            f"validation_{score_name(training)}": own_score(training, result),
            **({} if result.validation_loss is None else {"validation_loss": round(result.validation_loss, 5)}),
        }
        for result in training.history
    ]


def _distillation(config: TrainingConfig, model: nn.Module, given: Artifact, context: Context) -> Distillation | None:
    if config.distill is None:
        return None
    plain = _teacher(config.distill, context)
    inside = config.distill.features or config.distill.attention
    return replace(plain, hints=hints_of(config.distill, model, plain, given, context)) if inside else plain


def _teacher(config: Distill, context: Context) -> Distillation:
    """Return the teacher, compared with at outputs alone."""
    source, own = config.source, _other_side(context)
    if source == "original":
        teacher, channels, size = load_network(context.original), [*context.original.inputs[0].shape, 1][1], own
    else:
        teacher, read = load_other(source.definition, source.weights, source.arguments)
        named = (*source.inputs, source.weights)
        write_reads(context.folder, {path for path in read if not within_inputs(path, named)})
        for note in undeclared_inputs(read, source.definition, source.arguments, named, "build from"):
            context.progress.note(f"teacher: {note}")
        channels, size = source.channels, source.size or own
    return Distillation(teacher, config.temperature, config.alpha, channels, size, hints=None)


def _other_side(context: Context) -> int:
    """Return the side of the original's images where the stage works at another, else 0: teachers know that size."""
    task = context.task()
    side = context.original.inputs[0].shape[-1]
    return side if task.for_inputs(context.original.inputs) is not task else 0


def _reporter(training: TrainingRun, progress: Progress, label: str) -> Callable[[int, float], None]:
    epochs = training.settings.epochs

    def report(step: int, loss: float) -> None:
        last = f", validation {_shown(training)}" if training.history else ""
        done = training.epoch * training.steps + step + 1
        progress.update(
            done, epochs * training.steps, f"{label}epoch {training.epoch + 1}/{epochs}, loss {loss:.3f}{last}"
        )

    return report


def score_name(training: TrainingRun) -> str:
    """Return what a record calls the score: accuracy where it is that."""
    return "accuracy" if training.learner.metric == "accuracy" else "score"


def own_score(training: TrainingRun, result: EpochResult) -> float:
    """Return the metric as it is after an epoch, also where lower is better."""
    return result.score if training.learner.higher_is_better else -result.score


def _shown(training: TrainingRun) -> str:
    score, metric = own_score(training, training.history[-1]), training.learner.metric
    return f"{score:.2%}" if metric == "accuracy" else f"{metric} {score:.4g}"
