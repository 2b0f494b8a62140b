"""From labels to groups: the free classes, where their channels can be seen, and what they cost."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.capture import layer_path, plain_name
from pipeline.compress.graph_labels import SYMBOLIC, Value
from pipeline.compress.graph_types import Axis, ChannelGraph, Contraction, FeatureMap, Frozen, Group, Member, layer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.fx import Node

    from pipeline.compress.capture import Captured
    from pipeline.compress.graph_labels import Label
    from pipeline.compress.graph_walk import Slot, Walk

#: Through these, a layer's channels stay what they are; the last of them is where they are looked at.
_FOLLOWED = frozenset(
    (
        "batch_norm instance_norm group_norm layer_norm relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish "
        "sigmoid hardsigmoid hardswish tanh softplus prelu clamp clamp_min add dropout clone contiguous permute "
        "transpose"
    ).split()
)
_LAYERS = frozenset("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm".split())

Classes = dict[int, tuple[str, int]]


def collect(walk: Walk, captured: Captured) -> ChannelGraph:
    """Return groups, frozen dimensions and multiply-accumulates of a walked graph."""
    groups, classes = _groups(walk)
    maps = _feature_maps(walk, captured, classes, {group.name: group.width for group in groups})
    return ChannelGraph(
        groups=tuple(Group(g.name, g.width, g.members, tuple(maps.get(g.name, ()))) for g in groups),
        frozen=tuple(_frozen(walk)),
        shapes={name: tuple(tensor.shape) for name, tensor in captured.stored.items()},
        aliases=captured.aliases,
        contractions=tuple(_contractions(walk, captured, classes)),
        walk=walk,
    )


def _groups(walk: Walk) -> tuple[list[Group], Classes]:
    """Return the free classes, those with equally many positions in the same dimensions together, and where each is."""
    owned: dict[int, dict[Slot, list[int]]] = defaultdict(dict)
    for slot, label in walk.slots.items():
        free = ~walk.atoms.frozen(label)
        for position, root in zip(np.flatnonzero(free), walk.atoms.roots(label)[free], strict=True):
            owned[int(root)].setdefault(slot, []).append(int(position))
    alike: dict[tuple[tuple[Slot, int], ...], list[int]] = defaultdict(list)
    for root, slots in owned.items():
        alike[tuple((slot, len(positions)) for slot, positions in slots.items())].append(root)
    names: dict[str, int] = defaultdict(int)
    groups, classes = [], Classes()
    for signature, roots in alike.items():
        base = layer_of(signature[0][0][0])
        names[base] += 1
        name = base if names[base] == 1 else f"{base}:{names[base]}"
        members = tuple(
            Member(*slot, np.array([owned[root][slot] for root in roots]), walk.atoms.consumed(walk.slots[slot]))
            for slot, _ in signature
        )
        groups.append(Group(name, len(roots), members))
        classes |= {root: (name, index) for index, root in enumerate(roots)}
    return groups, classes


def _frozen(walk: Walk) -> Iterator[Frozen]:
    for slot, label in walk.slots.items():
        if reason := walk.atoms.reason(label):
            yield Frozen(*slot, reason, walk.atoms.consumed(label))


def _contractions(walk: Walk, captured: Captured, classes: Classes) -> Iterator[Contraction]:
    images = 1 if captured.dynamic else len(captured.example[0])
    for node in captured.module.graph.nodes:
        for product in walk.notes[node.name].products if node.name in walk.notes else ():
            axes = [_axis(walk, size, label, classes) for size, label in product]
            constant = prod(axis.fixed for axis in axes if not axis.per_class)
            yield Contraction(layer_path(node), constant // images, tuple(axis for axis in axes if axis.per_class))


def _axis(walk: Walk, size: int, label: Label, classes: Classes) -> Axis:
    size = size // SYMBOLIC if size >= SYMBOLIC else size
    if label is None:
        return Axis(size, {})
    owned: dict[str, set[int]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for root in walk.atoms.roots(label).tolist():
        if root in classes:
            name, index = classes[root]
            owned[name].add(index)
            counts[name] += 1
    per_class = {name: counts[name] // len(owned[name]) for name in owned}
    return Axis(size - sum(counts.values()), per_class)


def _feature_maps(
    walk: Walk, captured: Captured, classes: Classes, widths: dict[str, int]
) -> dict[str, list[FeatureMap]]:
    """Return where each group's channels can be seen; layers whose outputs are summed are seen once, in the sum."""
    found: dict[str, dict[str, FeatureMap]] = defaultdict(dict)
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and plain_name(node) in _LAYERS:
            last = _last(node, walk)
            for name, feature_map in _maps_at(last, layer_path(node), walk, classes, widths):
                found[name].setdefault(feature_map.node, feature_map)
    return {name: list(maps.values()) for name, maps in found.items()}


def _last(node: Node, walk: Walk) -> Node:
    while len(node.users) == 1:
        (user,) = node.users
        if plain_name(user) not in _FOLLOWED or not isinstance(walk.values.get(user.name), Value):
            break
        node = user
    return node


def _maps_at(
    node: Node, layer: str, walk: Walk, classes: Classes, widths: dict[str, int]
) -> Iterator[tuple[str, FeatureMap]]:
    value = walk.values[node.name]
    for dim, label in enumerate(value.labels):
        if label is None or value.shape[dim] >= SYMBOLIC:
            continue
        positions: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for position, root in enumerate(walk.atoms.roots(label).tolist()):
            if root in classes:
                name, index = classes[root]
                positions[name][index].append(position)
        for name, by_class in positions.items():
            if len(by_class) == widths[name] and len({len(each) for each in by_class.values()}) == 1:
                array = np.array([by_class[index] for index in range(widths[name])])
                yield name, FeatureMap(node.name, layer, dim, array)
