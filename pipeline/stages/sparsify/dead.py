"""Channels that the masks of a network leave dead: folded away once the masks are final."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.sparsity.dead_channels import any_empty, fold_dead_channels
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.core.errors import InputError, StageError, first_line
from pipeline.network.tracing import example_of

if TYPE_CHECKING:
    from torch import nn

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.stages.sparsify.config import SparsifyConfig


def settle_dead(config: SparsifyConfig, model: nn.Module, given: Artifact, context: Context) -> dict[str, Any]:
    """Fold a network's dead channels in place, unless the configuration keeps them; return what changed as plain JSON.

    `channels` by the layer that produces them, `weights` that became zero with them, and `constant`, weights by layer
    that multiply a constant but stay. Where channels cannot be followed all stays as it is, and `left` says why.
    """
    layers = sparse_layers(model, config.keep)
    if config.dead == "keep" or not any_empty(model, layers):
        return {}
    try:
        found = fold_dead_channels(capture_graph(model, example_of(given, context)), layers)
    except (InputError, StageError) as error:
        context.progress.note(f"dead channels stay: {first_line(error)}")
        return {"dead": {"left": first_line(error)}}
    told = {"channels": dict(found.channels), "weights": found.weights, "constant": dict(found.constant)}
    return {"dead": {name: value for name, value in told.items() if value}} if any(told.values()) else {}
