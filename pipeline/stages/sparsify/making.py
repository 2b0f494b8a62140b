"""Weights of an artifact's network to zero, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.pruning.samples import Samples
from pipeline.compress.sparsity.allocation import SparsityAim
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.compress.sparsity.methods import METHODS, solve_masks
from pipeline.compress.sparsity.moving import kept_share
from pipeline.compress.sparsity.patterns import Pattern
from pipeline.compress.sparsity.request import SparsityRequest
from pipeline.compress.sparsity.statistics import correct_statistics
from pipeline.network.masks import masks_of, sparse_names
from pipeline.network.stored import load_network, write_network
from pipeline.stages.sparsify.dead import settle_dead
from pipeline.stages.sparsify.pattern import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sparsity.layers import SparseLayer
    from pipeline.compress.sparsity.names import OneShotMethod
    from pipeline.compress.sparsity.request import Solution
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.stages.sparsify.config import SparsifyConfig


def sparsify_once(config: SparsifyConfig, method: OneShotMethod, given: Artifact, context: Context) -> dict[str, Any]:
    """Write the network with weights at zero into the context's folder, and return what changed.

    After a method that looks at samples, batch-norm statistics move with the weights. Raises as `solve_masks` does.
    """
    context.progress.update(0, 2, f"scoring weights by {method}")
    model = load_network(given)
    layers = sparse_layers(model, config.keep)
    alive = alive_masks(model, layers, given)
    request = SparsityRequest(model, layers, aim_of(config), alive, samples_for(config, context), context.seed)
    solution = solve_masks(method, request)
    apply_solution(layers, solution)
    moved = METHODS[method].needs != "weights" and correct_statistics(
        model, load_network(given), lambda: (inputs for inputs, _ in request.samples.training())
    )
    dead = settle_dead(config, model, given, context)
    left = masks_of(model, solution.masks) if dead else solution.masks
    masks = {name: mask & left[name] for name, mask in solution.masks.items()}
    context.progress.update(1, 2, "writing the network")
    write_network(context.folder, model, parent=given, sparse=names_with(given, masks))
    shares = {"before": kept_share(alive.values()), "after": kept_share(masks.values())}
    return {"density": shares, **solution.details} | ({"statistics": "corrected"} if moved else {}) | dead


def aim_of(config: SparsifyConfig) -> SparsityAim:
    """Return how many weights stay, and where."""
    pattern = pattern_of(config.pattern)
    wanted = pattern.density if config.density is None else config.density
    assert wanted is not None  # noqa: S101 - the configuration has one or the other
    return SparsityAim(wanted, config.scope, pattern)


def pattern_of(text: str | None) -> Pattern:
    """Return a pattern as a recipe writes it."""
    if text is None:
        return Pattern()
    if blocks := BLOCKS.match(text):
        return Pattern(block=int(blocks[1]))
    kept, of = text.split(":")
    return Pattern(int(kept), int(of))


def samples_for(config: SparsifyConfig, context: Context) -> Samples:
    """Return the training samples that methods may look at, drawn with the run's seed."""
    names = tuple(output.name for output in context.original.outputs) or ("logits",)
    return Samples(context.task, config.images, config.batch, context.seed, output_names=names)


def alive_masks(model: nn.Module, layers: Sequence[SparseLayer], given: Artifact) -> dict[str, Tensor]:
    """Return by parameter where a weight is not zero for good: earlier masks last."""
    before = masks_of(model, sparse_names(given))
    return {each.name: before.get(each.name, torch.ones_like(each.weight, dtype=torch.bool)) for each in layers}


@torch.no_grad()
def apply_solution(layers: Sequence[SparseLayer], solution: Solution) -> None:
    """Give layers the weights of a solution, and zeros where its masks have none, in place."""
    for each in layers:
        if each.name in solution.weights:
            each.weight.copy_(solution.weights[each.name])
        each.weight.masked_fill_(~solution.masks[each.name], 0)


def names_with(given: Artifact, masks: Mapping[str, Tensor]) -> list[str]:
    """Return the names of sparse parameters: those that the network had, and those that have zeros now."""
    return sorted({*sparse_names(given), *(name for name, mask in masks.items() if not bool(mask.all()))})
