"""Residual blocks in an exported file, float or quantized: where they are, and the file without some of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from onnx import GraphProto, numpy_helper

from pipeline.compress.quantization.biases import BIAS
from pipeline.compress.quantization.holding import HOLDS
from pipeline.onnx_graph.file import put_nodes
from pipeline.onnx_graph.links import DEQUANTIZE, QUANTIZE, value_consumers, value_producers, varying_values
from pipeline.pricing.widths import NoTemplateError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from onnx import NodeProto

    from pipeline.compress.pruning.depth import ResidualBlock
    from pipeline.pricing.places import FileNumbers

#: What export adds to a node's name for what is stored with it and is no parameter.
_CONSTANT = ".constant"
#: The second of two equal ones behind each other does nothing.
_IDEMPOTENT = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class FileBlocks:
    """Where the residual blocks of a network are in its file.

    `sums` are the name of the Add that ends each block and which of its inputs is the shortcut, by block, in the order
    of the file; `nodes` the blocks that take away the node with that number.
    """

    sums: Mapping[str, tuple[str, int]]
    nodes: Mapping[int, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def found(cls, file: FileNumbers, blocks: Sequence[ResidualBlock], layers: Collection[str]) -> FileBlocks:
        """Find the blocks: each is the sum whose branch holds the weights of its layers.

        `layers` are all layers of the network, after which stored tensors are named.

        Raises:
            NoTemplateError: one is not there.
        """
        if not blocks:
            return cls({})
        search = _Search(file, {*layers, *(layer for block in blocks for layer in block.layers)})
        sums = search.sums(blocks)
        alone = cls(sums)
        gone: dict[int, set[str]] = defaultdict(set)
        names = [node.name for node in file.model.graph.node]
        for block in sums:
            graph = GraphProto()
            graph.CopyFrom(file.model.graph)
            alone.drop(graph, {block})
            left = {node.name for node in graph.node}
            for number, name in enumerate(names):
                if name not in left:
                    gone[number].add(block)
        return cls(sums, {number: frozenset(each) for number, each in gone.items()})

    @property
    def names(self) -> frozenset[str]:
        """The blocks that can leave."""
        return frozenset(self.sums)

    def of_node(self, number: int) -> frozenset[str]:
        """Return the blocks that take a node away."""
        return self.nodes.get(number, frozenset())

    def drop(self, graph: GraphProto, blocks: AbstractSet[str]) -> None:
        """Replace the results of these blocks by their shortcuts and take out what nothing reads any more."""
        if not blocks:
            return
        by_name = {node.name: node for node in graph.node}
        for block, (name, shortcut) in self.sums.items():
            if block in blocks:
                _replace(graph, by_name[name].output[0], by_name[name].input[shortcut])
        _drop_dead(graph)


def match_biases(graph: GraphProto) -> None:
    """Give the biases of integer products the scale of their data times that of their weights again.

    What follows a dropped block reads a tensor of another scale, and onnxruntime takes a product for an integer one
    only when its bias has the scale of its sums.
    """
    made_by = value_producers(graph)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        pairs = [made_by.get(value) for value in node.input[: BIAS.get(node.op_type, 0) + 1]]
        scales = [stored.get(pair.input[1]) for pair in pairs if pair is not None and pair.op_type == DEQUANTIZE]
        if len(pairs) == len(scales) == 3 and pairs[2] is not None:  # noqa: PLR2004 - data, weight, bias
            data, weight, bias = (numpy_helper.to_array(scale) if scale else None for scale in scales)
            if data is not None and weight is not None and bias is not None and data.size == 1:
                wanted = np.broadcast_to(data.reshape(-1) * weight.reshape(-1), (max(weight.size, 1),))
                if bias.size == wanted.size and not np.allclose(bias.reshape(-1), wanted):
                    name = f"{pairs[2].input[1]} of {node.name}"
                    graph.initializer.append(numpy_helper.from_array(wanted.reshape(bias.shape), name))
                    pairs[2].input[1] = name


def _replace(graph: GraphProto, result: str, shortcut: str) -> None:
    """Let the readers of a sum read its shortcut; a tensor that is rounded already is not rounded again."""
    made_by, read_by = value_producers(graph), value_consumers(graph)
    while shortcut in made_by and _holds(made_by[shortcut]):
        shortcut = made_by[shortcut].input[0]
    rounded = shortcut in made_by and made_by[shortcut].op_type == DEQUANTIZE
    for reader in read_by.get(result, []):
        value = shortcut
        if rounded and reader.op_type == QUANTIZE:
            pairs = [each for each in read_by.get(reader.output[0], []) if each.op_type == DEQUANTIZE]
            for pair in pairs:
                _rewire(read_by.get(pair.output[0], []), pair.output[0], value)
        elif _repeats(reader, _behind(shortcut, made_by)):
            _rewire(read_by.get(reader.output[0], []), reader.output[0], value)
        _rewire([reader], result, value)


def _rewire(readers: Sequence[NodeProto], old: str, new: str) -> None:
    for reader in readers:
        reader.input[:] = [new if value == old else value for value in reader.input]


def _behind(value: str, made_by: Mapping[str, NodeProto]) -> NodeProto | None:
    """Return the node that makes a value, behind a pair that rounds it."""
    node = made_by.get(value)
    while node is not None and (node.op_type in {QUANTIZE, DEQUANTIZE} or _holds(node)):
        node = made_by.get(node.input[0])
    return node


def _holds(node: NodeProto) -> bool:
    """Say whether a node only keeps a neighbour in float (`hold_in_float`)."""
    return node.op_type == HOLDS and any(each.name == "alpha" and each.f == 1 for each in node.attribute)


def _repeats(node: NodeProto, before: NodeProto | None) -> bool:
    """Say whether a node does again what the one before it did: the same activation with the same bounds."""
    if before is None or node.op_type not in _IDEMPOTENT or before.op_type != node.op_type:
        return False
    return list(node.input[1:]) == list(before.input[1:]) and list(node.attribute) == list(before.attribute)


def _drop_dead(graph: GraphProto) -> None:
    read = {value.name for value in graph.output}
    alive = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            alive.append(node)
            read.update(node.input)
    put_nodes(graph, reversed(alive))


class _Search:
    """Finds sums of a shortcut and a branch that is computed from it alone."""

    def __init__(self, file: FileNumbers, layers: AbstractSet[str]) -> None:
        self._graph, self._shapes, self._layers = file.model.graph, file.shapes, layers
        self._made_by, self._read_by = value_producers(self._graph), value_consumers(self._graph)
        self._varying = varying_values(self._graph)
        self._stored = {tensor.name for tensor in self._graph.initializer if not self._is_shared(tensor.name)}

    def sums(self, blocks: Sequence[ResidualBlock]) -> dict[str, tuple[str, int]]:
        """Return the name of each block's sum and the place of its shortcut, in the order of the file."""
        named = set().union(*(block.layers for block in blocks))
        there = {self._layer(name) for name in self._stored} & named
        found: dict[str, tuple[str, int]] = {}
        for node in self._graph.node:
            if node.op_type == "Add" and set(node.input) <= self._varying:
                for shortcut in (0, 1):
                    layers = self._layers_between(node, shortcut)
                    block = next(
                        (b.name for b in blocks if b.name not in found and set(b.layers) & there == layers), ""
                    )
                    if layers and block:
                        found[block] = (node.name, shortcut)
                        break
        if missing := [block.name for block in blocks if block.name not in found]:
            raise NoTemplateError(f"residual blocks {', '.join(missing)} are not found in the file")
        return found

    def _layers_between(self, node: NodeProto, place: int) -> set[str]:
        """Return the layers of a branch that is computed from the shortcut alone; empty where there is none."""
        shortcut, branch = (self._root(node.input[each]) for each in (place, 1 - place))
        if self._shapes.get(shortcut) != self._shapes.get(branch):
            return set()
        waiting, seen, layers, reached = [branch], {shortcut}, set[str](), False
        while waiting:
            value = waiting.pop()
            if value in seen:
                reached |= value == shortcut
                continue
            seen.add(value)
            if value in self._varying and value not in self._made_by:  # an input of the network
                return set()
            if value in self._stored:
                layers.add(self._layer(value))
            elif value in self._made_by:
                waiting += [self._root(each) for each in self._made_by[value].input]
        return layers & {layer for layer in layers if layer} if reached else set()

    def _is_shared(self, tensor: str) -> bool:
        """Say whether another node than the one that a constant is named after reads it: equal ones are stored once."""
        reader, constant, _ = tensor.partition(_CONSTANT)
        direct = self._read_by.get(tensor, [])
        pairs = [node for node in direct if node.op_type == DEQUANTIZE]
        behind = [node for pair in pairs for node in self._read_by.get(pair.output[0], [])]
        readers = {node.name for node in (*direct, *behind) if node not in pairs}
        return bool(constant) and not readers <= {reader}

    def _root(self, value: str) -> str:
        """Return the value that a pair rounds, or that is held in float."""
        node = self._made_by.get(value)
        while node is not None:
            if _holds(node):
                value = node.input[0]
            elif node.op_type == DEQUANTIZE and self._is_quantized(node.input[0]):
                value = self._made_by[node.input[0]].input[0]
            else:
                break
            node = self._made_by.get(value)
        return value

    def _is_quantized(self, value: str) -> bool:
        return value in self._made_by and self._made_by[value].op_type == QUANTIZE

    def _layer(self, tensor: str) -> str:
        """Return the layer that a stored tensor is named after; empty where there is none."""
        parts = tensor.split(".")
        return next((path for n in range(len(parts) - 1, 0, -1) if (path := ".".join(parts[:n])) in self._layers), "")
