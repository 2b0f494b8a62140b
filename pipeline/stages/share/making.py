"""Codebooks for the weights of an artifact's network, found and then trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.sharing.codebooks import SharingRule, find_codebook, make_codebook
from pipeline.compress.sharing.names import GRID_LEVELS
from pipeline.compress.sharing.tied import TiedWeights
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.core.errors import InputError
from pipeline.network.clusters import codebooks_of, sharing_rules
from pipeline.network.masks import masks_of, sparse_names
from pipeline.network.stored import load_network, write_network
from pipeline.network.training import STATE_FILE, epoch_history, make_training, run_to_end, trained_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sharing.names import CodebookGrid, GridChoice
    from pipeline.compress.sparsity.layers import SparseLayer
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.stages.share.config import ShareConfig, ShareSchedule

#: How the weights of recurrent layers are called: they stay in float whatever quantizes the others.
_RECURRENT = ("weight_ih", "weight_hh")
#: Dimensions of the weights of matrix products; those of convolutions have more.
_MATRIX = 2
#: The grids of matrix products and of convolutions.
_GRIDS: dict[GridChoice, tuple[CodebookGrid, CodebookGrid]] = {
    "float": ("float", "float"),
    "int8": ("int8", "int8"),
    "int7": ("int7", "int7"),
    "int8-products": ("int8", "float"),
    "int7-products": ("int7", "float"),
}


def share_weights(config: ShareConfig, given: Artifact, context: Context) -> dict[str, Any]:
    """Write the network with shared weights into the context's folder, and return what changed."""
    model = load_network(given)
    layers = sparse_layers(model, config.keep)
    rules = {each.name: _rule(config, each) for each in layers}
    before = {each.name: each.weight.detach().clone() for each in layers}
    _give_codebooks(config, layers, rules, context)
    changed: dict[str, Any] = {"layers": _told(layers, rules, before), "grid": config.grid}
    if config.schedule:
        model, trained = _trained(config.schedule, model, given, context, rules)
        changed |= trained
    write_network(context.folder, model, parent=given, shared=sharing_rules(given) | rules)
    (context.folder / STATE_FILE).unlink(missing_ok=True)
    return changed


def _rule(config: ShareConfig, layer: SparseLayer) -> SharingRule:
    return SharingRule(config.clusters, config.scope, _grid(config.grid, layer), config.gradient, layer.outputs)


def _grid(asked: GridChoice, layer: SparseLayer) -> CodebookGrid:
    """Return the grid of a layer: any values where the file that follows has its weights in float."""
    if layer.name.rpartition(".")[2].startswith(_RECURRENT):
        return "float"
    of_products, of_convolutions = _GRIDS[asked]  # `following` has replaced auto
    return of_products if layer.weight.ndim == _MATRIX else of_convolutions


@torch.no_grad()
def _give_codebooks(
    config: ShareConfig, layers: Sequence[SparseLayer], rules: Mapping[str, SharingRule], context: Context
) -> None:
    """Give each layer the weights of its codebook, in place. Raises InputError with the layer's name."""
    for number, each in enumerate(layers):
        context.progress.update(number, len(layers), f"clusters of {each.layer or each.name}")
        try:
            book = make_codebook(each.weight, rules[each.name], config.start, context.seed + number)
        except InputError as error:
            layer = each.layer or each.name
            raise InputError(f"clusters: {layer}: {error}; lower clusters, or name {layer} in keep") from error
        each.weight.copy_(book.weight())


def _trained(
    schedule: ShareSchedule,
    model: nn.Module,
    given: Artifact,
    context: Context,
    rules: Mapping[str, SharingRule],
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with its codebooks trained and back on their grids, and how training went."""
    training = make_training(schedule, model, context, given=given, seed=context.seed)
    training.hold(masks_of(model, sparse_names(given)))
    training.tie(TiedWeights({name: (book, rules[name].gradient) for name, book in codebooks_of(model, rules).items()}))
    trained = run_to_end(training, context.folder, context.progress, judge_start=True)
    network = trained_network(trained, given)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, rule in rules.items():
            if rule.grid in GRID_LEVELS:
                book = find_codebook(parameters[name], rule).on_grid(GRID_LEVELS[rule.grid])
                parameters[name].copy_(book.weight())
    told = {"device": training.device.type, "best_epoch": training.best_epoch, "history": epoch_history(training)}
    return network, told


def _told(
    layers: Sequence[SparseLayer], rules: Mapping[str, SharingRule], before: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Return of each layer its values, its weights, and the relative error of its weights: |w - w'| / |w|."""
    return {each.name: _layer_told(each, rules[each.name], before[each.name]) for each in layers}


def _layer_told(layer: SparseLayer, rule: SharingRule, before: Tensor) -> dict[str, float]:
    size = float(before.double().norm())
    error = float((layer.weight.detach().double() - before.double()).norm()) / size if size else 0.0
    values = find_codebook(layer.weight, rule).values.numel()
    return {"values": values, "weights": before.numel(), "error": round(error, 6)}
