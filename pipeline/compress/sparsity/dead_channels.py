"""Dead channels: those that compute a constant, since no weight feeds them, and those that no weight reads.

Source: neurons without inputs or without outputs leave in Han et al., Learning both Weights and Connections (NeurIPS
2015, section 3.5), by training; here at once, by arithmetic, with the outputs of the network unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.contractions import CONTRACTION_RULES
from pipeline.compress.pruning.graph.labels import Value
from pipeline.compress.pruning.graph.nodes import plain_name
from pipeline.compress.sparsity.constants import LAYERS
from pipeline.compress.sparsity.folding import fold_constants
from pipeline.core.errors import StageError, first_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.graph import ChannelGraph, Group
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.sparsity.layers import SparseLayer

#: Products whose factors may both be computed: channels there are read without a weight.
_PRODUCTS = frozenset(name for _, names in CONTRACTION_RULES for name in names.split()) - LAYERS
#: Rounding in float32 may change outputs by less than this share of the largest.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class DeadChannels:
    """What died.

    Attributes:
        channels: that nothing reads and nothing feeds now, by the layer that first produces them.
        weights: that became zero.
        constant: weights by layer that multiply a constant all the same, since nothing exact could take their place.
    """

    channels: Mapping[str, int] = field(default_factory=dict)
    weights: int = 0
    constant: Mapping[str, int] = field(default_factory=dict)


def any_empty(model: nn.Module, layers: Sequence[SparseLayer]) -> bool:
    """Say whether a layer has an output without a weight, or an input: without one no channel has died."""
    for each in layers:
        groups, (rows, inputs) = getattr(model.get_submodule(each.layer), "groups", 1), each.weight.shape[:2]
        found = (each.weight.detach() != 0).reshape(groups, rows // groups, inputs, -1).any(-1)
        if not bool(found.any(1).all() and found.any(2).all()):
            return True
    return False


@torch.no_grad()
def fold_dead_channels(captured: CapturedGraph, layers: Sequence[SparseLayer]) -> DeadChannels:
    """Fold channels that are constant and empty those that nothing reads, in the network that was captured.

    Constants are folded (`fold_constants`). A channel of which no layer has a weight left loses the weights that
    produce it, its biases, and factors and shifts of its norms. Both are done until no weight leaves. The outputs of
    the network stay equal up to rounding.

    Args:
        captured: the network's graph.
        layers: those whose weights may become zero.

    Raises:
        StageError: outputs for the example differ, or an operator fails on marks; the network is as it was.

    Cost: two forward passes of the example, four for each time that weights leave, and a copy of the weights.
    Limits: channels that `prune` cannot remove, and those of products of two computed tensors (attention), stay.
    """
    own = {name: tensor for name, tensor in captured.stored.items() if name not in captured.foreign}
    names, before = {each.name for each in layers} & own.keys(), {name: each.clone() for name, each in own.items()}
    try:
        expected = _outputs(captured)
        channels, constant = _settle(captured, names)
        _compare(expected, _outputs(captured))
    except Exception as error:
        for name, tensor in own.items():
            tensor.copy_(before[name])
        if isinstance(error, StageError):
            raise
        raise StageError(f"constants cannot be followed: {first_line(error)}") from error
    weights = sum(int(before[name].count_nonzero() - own[name].count_nonzero()) for name in names)
    left = {name: int((own[name][where] != 0).sum()) for name, where in constant.items()}
    return DeadChannels(channels, weights, {name: count for name, count in left.items() if count})


def _settle(captured: CapturedGraph, names: Collection[str]) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Fold and empty in turn until no weight leaves; return unread channels, and the weights with constant inputs."""
    graph, count = trace_channels(captured, statistics="freeze"), _count(captured, names)
    while True:
        constant = fold_constants(captured, names)
        channels = _empty_unread(captured, graph, names)
        last, count = count, _count(captured, names)
        if count == last:
            return channels, constant


def _count(captured: CapturedGraph, names: Collection[str]) -> int:
    """Return how many weights are not zero."""
    return sum(int(captured.stored[name].count_nonzero()) for name in names)


def _empty_unread(captured: CapturedGraph, graph: ChannelGraph, names: Collection[str]) -> dict[str, int]:
    """Set what produces unread channels to zero until no more become so; return how many there are, by group."""
    blocked = _blocked(captured, graph)
    dead = {group.name: np.zeros(group.width, np.bool_) for group in graph.groups}
    while True:
        found = {group.name: _unread(captured, graph, group, blocked) for group in graph.groups}
        if all(np.array_equal(found[name], dead[name]) for name in dead):
            return {name: int(unread.sum()) for name, unread in dead.items() if unread.any()}
        dead = found
        for group in graph.groups:
            _empty(captured, group, dead[group.name], names)


def _unread(
    captured: CapturedGraph, graph: ChannelGraph, group: Group, blocked: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Say of each channel of a group that only layers with weights read it, and that these are zero."""
    assert graph.walk is not None  # noqa: S101 - trace_channels gives one
    consuming = [member for member in group.members if member.consumes]
    first = group.members[0]
    atoms = graph.walk.slots[first.tensor, first.dim][first.positions[:, 0]]
    read = blocked[graph.walk.atoms.roots(atoms)] | (not consuming)
    for member in consuming:
        columns = captured.stored[member.tensor].detach().movedim(member.dim, 0).flatten(1).any(1).numpy()
        read |= columns[member.positions].any(1)
    return ~read


def _blocked(captured: CapturedGraph, graph: ChannelGraph) -> NDArray[np.bool_]:
    """Say of each atom whether a product of two computed tensors reads its class."""
    assert graph.walk is not None  # noqa: S101 - trace_channels gives one
    walk, found = graph.walk, graph.walk.atoms.none()
    for node in captured.module.graph.nodes:
        for source in node.all_input_nodes if plain_name(node) in _PRODUCTS else ():
            for value in tree_leaves(walk.values[source.name]):
                for label in value.labels if isinstance(value, Value) else ():
                    if label is not None:
                        found[walk.atoms.roots(label)] = True
    return found


def _empty(captured: CapturedGraph, group: Group, dead: NDArray[np.bool_], names: Collection[str]) -> None:
    """Set weights, biases, factors and shifts of dead channels to zero."""
    for member in group.members:
        tensor = captured.stored[member.tensor]
        vector = tensor.dim() == 1 and isinstance(tensor, nn.Parameter)
        if not member.consumes and (vector or member.tensor in names):
            tensor.movedim(member.dim, 0)[torch.from_numpy(member.positions[dead].ravel())] = 0


def _outputs(captured: CapturedGraph) -> list[Tensor]:
    """Return the outputs for the example that are numbers with a fraction."""
    given = captured.module(*(each.clone() for each in captured.example))
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _compare(expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Raise StageError where outputs differ by more than rounding."""
    for before, after in zip(expected, found, strict=True):
        scale, error = (float(each.abs().max()) if each.numel() else 0.0 for each in (before, after - before))
        if not error <= _TOLERANCE * scale:
            raise StageError(
                f"the network's outputs differ by {error:.3g} at a scale of {scale:.3g} once dead channels are folded"
            )
