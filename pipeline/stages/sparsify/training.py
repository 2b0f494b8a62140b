"""Weights of an artifact's network to zero while it is trained, resumable between epochs."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.compress.sparsity.allocation import chosen_masks
from pipeline.compress.sparsity.dns import NetworkSurgery
from pipeline.compress.sparsity.gradual import GradualMasks
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.compress.sparsity.methods import require_fewer
from pipeline.compress.sparsity.movement import MovementMasks
from pipeline.compress.sparsity.moving import MaskTiming, kept_share
from pipeline.compress.sparsity.rigl import ExchangingMasks
from pipeline.compress.sparsity.scores import magnitude_scores, random_scores
from pipeline.network.masks import masks_of, sparse_names
from pipeline.network.stored import load_network, write_network
from pipeline.network.training import STATE_FILE, epoch_history, learner_of, make_training, run_to_end, trained_network
from pipeline.stages.sparsify.dead import settle_dead
from pipeline.stages.sparsify.making import aim_of, alive_masks, names_with

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.sparsity.layers import SparseLayer
    from pipeline.compress.sparsity.moving import MovingMasks
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.stages.sparsify.config import SparsifyConfig, SparsifySchedule

#: Moves of the masks below which a person is told that there are few.
_FEW = 5


def sparsify_trained(
    config: SparsifyConfig, schedule: SparsifySchedule, given: Artifact, context: Context
) -> dict[str, Any]:
    """Train, write the network into the context's folder, and return what changed.

    Goes on from where an earlier, killed run in the same folder got to.

    Raises:
        InputError: as `solve_masks` does.
        StageError: training diverges.
    """
    model = load_network(given)
    layers = sparse_layers(model, config.keep)
    alive = alive_masks(model, layers, given)
    require_fewer(aim_of(config), alive)
    steps = learner_of(schedule, context).steps
    timing = MaskTiming(steps, max(1, round(schedule.ramp * schedule.epochs * steps)), schedule.update)
    masks = moving_masks(config, schedule, layers, alive, timing, context.seed)
    _note_few(timing, context)
    training = make_training(schedule, model, context, given=given, seed=context.seed, regulariser=masks)
    training.hold(masks_of(model, sparse_names(given)))
    network = trained_network(run_to_end(training, context.folder, context.progress), given)
    dead = settle_dead(config, network, given, context)
    found = masks_of(network, [each.name for each in layers])
    write_network(context.folder, network, parent=given, sparse=names_with(given, found))
    (context.folder / STATE_FILE).unlink(missing_ok=True)
    return {
        "density": {"before": kept_share(alive.values()), "after": kept_share(found.values())},
        "device": training.device.type,
        "best_epoch": training.best_epoch,
        "history": epoch_history(training),
        **dead,
    }


def moving_masks(
    config: SparsifyConfig,
    schedule: SparsifySchedule,
    layers: Sequence[SparseLayer],
    alive: Mapping[str, Tensor],
    timing: MaskTiming,
    seed: int,
) -> MovingMasks:
    """Return what moves the masks of these layers while they are trained."""
    aim = aim_of(config)
    match config.method:
        case "dns":
            gamma, power = schedule.gamma, schedule.power
            return NetworkSurgery(layers, alive, aim.density, timing, gamma=gamma, power=power, seed=seed)
        case "rigl":
            sizes = magnitude_scores(layers).items()
            scores = {name: size.masked_fill(~alive[name], -math.inf) for name, size in sizes}
            first = chosen_masks(scores, layers, aim)
            return ExchangingMasks(layers, alive, first, timing, fraction=schedule.exchange)
        case "movement":
            return MovementMasks(layers, alive, aim, timing)
        case "random":
            return GradualMasks(layers, alive, aim, partial(random_scores, seed=seed), timing)
        case _:
            return GradualMasks(layers, alive, aim, magnitude_scores, timing)


def _note_few(timing: MaskTiming, context: Context) -> None:
    """Say where masks move only a few times, since a training has few steps."""
    moves = -(-timing.last // timing.every)
    if moves < _FEW:
        context.progress.note(
            f"masks move {moves} time{'s' if moves > 1 else ''} in the {timing.last} steps of the ramp: lower "
            f"schedule.update (now {timing.every}) for a gradual one"
        )
