"""From labels to groups: the free classes, where their channels can be seen, and what they cost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.graph.labels import SYMBOLIC, Value
from pipeline.compress.pruning.graph.nodes import layer_path, plain_name
from pipeline.compress.pruning.graph.types import (
    Axis,
    ChannelGraph,
    Contraction,
    FeatureMap,
    Frozen,
    Group,
    Member,
    layer_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch.fx import Node

    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.labels import Label
    from pipeline.compress.pruning.graph.walk import Slot, Walk

#: Through these, a layer's channels stay what they are; the last of them is where they are looked at.
_FOLLOWED = frozenset(
    (
        "batch_norm instance_norm group_norm layer_norm relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish "
        "sigmoid hardsigmoid hardswish tanh softplus prelu clamp clamp_min add dropout clone contiguous permute "
        "transpose"
    ).split()
)
_LAYERS = frozenset("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm".split())


@dataclass(frozen=True)
class _Classes:
    """The free classes by their representative atom: number of the group (-1: none) and position in it."""

    groups: tuple[Group, ...]
    group: NDArray[np.int64]
    index: NDArray[np.int64]

    def of(self, roots: NDArray[np.int64]) -> Iterator[tuple[Group, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the groups that a label meets, with its positions in the order of their classes, and those classes."""
        numbers = self.group[roots]
        for number in np.unique(numbers[numbers >= 0]):
            positions = np.flatnonzero(numbers == number)
            classes = self.index[roots[positions]]
            order = np.argsort(classes, kind="stable")
            yield self.groups[number], positions[order], classes[order]


def collect(walk: Walk, captured: CapturedGraph) -> ChannelGraph:
    """Return groups, frozen dimensions and multiply-accumulates of a walked graph."""
    classes = _classes(walk)
    maps = _feature_maps(walk, captured, classes)
    return ChannelGraph(
        groups=tuple(replace(group, maps=tuple(maps.get(group.name, ()))) for group in classes.groups),
        frozen=tuple(_frozen(walk)),
        shapes={name: tuple(tensor.shape) for name, tensor in captured.stored.items()},
        aliases=captured.aliases,
        contractions=tuple(_contractions(walk, captured, classes)),
        walk=walk,
    )


def sizes_by_width(walk: Walk) -> tuple[Axis, ...]:
    """Return, each once, the sizes in a walked graph that widths decide: of stored tensors and of every value."""
    classes = _classes(walk)
    labelled = [(len(label), label) for label in walk.slots.values()]
    for value in tree_leaves(dict(walk.values)):
        if isinstance(value, Value):
            sizes = zip(value.shape, value.labels, strict=True)
            labelled += [(size, label) for size, label in sizes if label is not None]
    axes = (_axis(walk, size, label, classes) for size, label in labelled)
    return tuple({(axis.fixed, *sorted(axis.per_class.items())): axis for axis in axes if axis.per_class}.values())


def _classes(walk: Walk) -> _Classes:
    """Group the free classes: those with equally many positions in the same dimensions are together."""
    roots = {slot: walk.atoms.roots(label) for slot, label in walk.slots.items()}
    free = {slot: ~walk.atoms.frozen(label) for slot, label in walk.slots.items()}
    count = 1 + max((int(each.max()) for each in roots.values()), default=0)
    signature, order = np.zeros(count, np.int64), np.full(count, -1)
    signatures: list[dict[Slot, int]] = [{}]
    seen = 0
    for slot, label in roots.items():
        owners, first, times = np.unique(label[free[slot]], return_index=True, return_counts=True)
        for before, often in {*zip(signature[owners].tolist(), times.tolist(), strict=True)}:
            chosen = (signature[owners] == before) & (times == often)
            signatures.append({**signatures[before], slot: often})
            signature[owners[chosen]] = -len(signatures) + 1  # negative until all of this dimension are known
        signature[owners] = -signature[owners]
        new = owners[np.argsort(first)]
        new = new[order[new] < 0]
        order[new] = np.arange(seen, seen + len(new))
        seen += len(new)
    return _numbered(walk, roots, signature, order, signatures)


def _numbered(
    walk: Walk,
    roots: dict[Slot, NDArray[np.int64]],
    signature: NDArray[np.int64],
    order: NDArray[np.int64],
    signatures: list[dict[Slot, int]],
) -> _Classes:
    """Number groups and classes in the order in which the graph first uses them, and collect their slices."""
    group, index = np.full(len(signature), -1), np.zeros(len(signature), np.int64)
    owners = np.flatnonzero(order >= 0)
    owners = owners[np.argsort(order[owners])]
    numbers = list(dict.fromkeys(signature[owners].tolist()))
    names: dict[str, int] = defaultdict(int)
    groups = []
    for number, kind in enumerate(numbers):
        own = owners[signature[owners] == kind]
        group[own], index[own] = number, np.arange(len(own))
        members = []
        for slot in signatures[kind]:
            positions = np.flatnonzero(group[roots[slot]] == number)
            by_class = positions[np.argsort(index[roots[slot][positions]], kind="stable")].reshape(len(own), -1)
            name, dim = slot
            members.append(Member(name, dim, by_class, walk.atoms.consumed(walk.slots[slot])))
        base = layer_of(members[0].tensor)
        names[base] += 1
        groups.append(Group(base if names[base] == 1 else f"{base}:{names[base]}", len(own), tuple(members)))
    return _Classes(tuple(groups), group, index)


def _frozen(walk: Walk) -> Iterator[Frozen]:
    """Yield what is kept and why. Positions of a table that is added to tokens are not channels: they are left out."""
    layers = {name for (name, _), label in walk.slots.items() if walk.atoms.consumed(label)}
    free = {name for (name, _), label in walk.slots.items() if not walk.atoms.frozen(label).all()}
    for (name, dim), label in walk.slots.items():
        if (reason := walk.atoms.reason(label)) and (name in layers or name not in free):
            yield Frozen(name, dim, reason, walk.atoms.consumed(label))


def _contractions(walk: Walk, captured: CapturedGraph, classes: _Classes) -> Iterator[Contraction]:
    images = 1 if captured.dynamic else len(captured.example[0])
    for node in captured.module.graph.nodes:
        for product in walk.notes[node.name].products if node.name in walk.notes else ():
            axes = [_axis(walk, size, label, classes) for size, label in product]
            constant = prod(axis.fixed for axis in axes if not axis.per_class)
            yield Contraction(layer_path(node), constant // images, tuple(axis for axis in axes if axis.per_class))


def _axis(walk: Walk, size: int, label: Label, classes: _Classes) -> Axis:
    size = size // SYMBOLIC if size >= SYMBOLIC else size
    if label is None:
        return Axis(size, {})
    met = [(group, len(positions)) for group, positions, _ in classes.of(_known(walk.atoms.roots(label), classes))]
    return Axis(size - sum(count for _, count in met), {group.name: count / group.width for group, count in met})


def _known(roots: NDArray[np.int64], classes: _Classes) -> NDArray[np.int64]:
    """Return the representatives with those that no stored tensor has replaced by the one that is in no group."""
    return np.where(roots < len(classes.group), roots, 0)


def _feature_maps(walk: Walk, captured: CapturedGraph, classes: _Classes) -> dict[str, list[FeatureMap]]:
    """Return where each group's channels can be seen; layers whose outputs are summed are seen once, in the sum."""
    found: dict[str, dict[str, FeatureMap]] = defaultdict(dict)
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and plain_name(node) in _LAYERS:
            for name, feature_map in _maps_at(_last(node, walk), layer_path(node), walk, classes):
                found[name].setdefault(feature_map.node, feature_map)
    return {name: list(maps.values()) for name, maps in found.items()}


def _last(node: Node, walk: Walk) -> Node:
    while len(node.users) == 1:
        (user,) = node.users
        if plain_name(user) not in _FOLLOWED or not isinstance(walk.values.get(user.name), Value):
            break
        node = user
    return node


def _maps_at(node: Node, layer: str, walk: Walk, classes: _Classes) -> Iterator[tuple[str, FeatureMap]]:
    value = walk.values[node.name]
    for dim, label in enumerate(value.labels):
        if label is None or value.shape[dim] >= SYMBOLIC:
            continue
        for group, positions, owners in classes.of(_known(walk.atoms.roots(label), classes)):
            times = np.bincount(owners, minlength=group.width)
            if times.min() == times.max():
                yield group.name, FeatureMap(node.name, layer, dim, positions.reshape(group.width, -1))
