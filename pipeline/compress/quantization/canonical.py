"""The one form in which every engine is given a float graph: what their quantizers would read otherwise is written out.

Nodes have names and constants are stored tensors. Products are plain: `alpha` and `beta` of a Gemm are part of its
weights and its bias, which has one number for each output. A weight that products read along different axes is stored
once for each, for its scales lie along one. The graph computes what it did, but for the last bit of scaled numbers.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.onnx_graph.file import put_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

    Array = NDArray[Any]

WEIGHT, BIAS = 1, 2
MATRIX = 2
#: What a Gemm multiplies its product and its bias by.
FACTORS = {"alpha": WEIGHT, "beta": BIAS}


def canonical_form(model: ModelProto) -> ModelProto:
    """Return a copy of a float graph in the form above; a graph that has it comes back as it is."""
    copy = plain(model)
    if _add_computed_biases(copy.graph):
        copy = onnx.shape_inference.infer_shapes(copy)
    stored = _Stored(copy.graph)
    for node in copy.graph.node:
        if node.op_type == "Gemm":
            _scale_by_factors(node, stored)
            _flatten_bias(node, stored)
    _separate_axes(copy.graph, stored)
    stored.remove_unread()
    return copy


def plain(model: ModelProto) -> ModelProto:
    """Return a copy in which every node has a name, constants are stored tensors and no Identity stands in between."""
    copy = deepcopy(model)
    outputs = {value.name for value in copy.graph.output}
    handed_on: dict[str, str] = {}
    for node in list(copy.graph.node):
        node.name = node.name or node.output[0]
        node.input[:] = [handed_on.get(value, value) for value in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            handed_on[node.output[0]] = node.input[0]
            copy.graph.node.remove(node)
        elif node.op_type == "Constant" and node.attribute[0].name == "value" and node.output[0] not in outputs:
            copy.graph.initializer.add().CopyFrom(node.attribute[0].t)
            copy.graph.initializer[-1].name = node.output[0]
            copy.graph.node.remove(node)
    return copy


def output_axis(node: NodeProto) -> int:
    """Return the axis of a product's weight that counts its outputs; of a transposed convolution those of a group."""
    if node.op_type == "Gemm":
        return 0 if any(each.name == "transB" and each.i for each in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, -1)


def stored_weights(model: ModelProto) -> dict[str, Array]:
    """Return the stored second input of each node that has one, by the node's name: the weight of a product."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if len(node.input) > WEIGHT and node.input[WEIGHT] in tensors]
    return {node.name: numpy_helper.to_array(tensors[node.input[WEIGHT]]) for node in nodes}


class _Stored:
    """The stored tensors of a graph: an input of one node is changed, and other readers keep what they had."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.readers = Counter(_read(graph))
        self.readers.update(value.name for value in graph.output)
        self.taken = self.tensors.keys() | {value for node in graph.node for value in node.output}

    def get(self, node: NodeProto, place: int) -> Array | None:
        """Return a stored input of a node, None where it has none or computes it."""
        name = node.input[place] if len(node.input) > place else ""
        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors else None

    def change(self, node: NodeProto, place: int, function: Callable[[Array], Array]) -> None:
        """Let a node read a function of what it reads."""
        name = node.input[place]
        new = np.asarray(function(numpy_helper.to_array(self.tensors[name])))
        if self.readers[name] > 1:
            self.readers[name] -= 1
            name = self._free(f"{node.name}.{'weight' if place == WEIGHT else 'bias'}")
            node.input[place] = name
            self.readers[name] = 1
            self.tensors[name] = self.graph.initializer.add()
        self.tensors[name].CopyFrom(numpy_helper.from_array(new, name))

    def remove_unread(self) -> None:
        """Take out what nothing reads."""
        for name, tensor in list(self.tensors.items()):
            if not self.readers[name]:
                self.graph.initializer.remove(tensor)

    def _free(self, name: str) -> str:
        number, free = 1, name
        while free in self.taken:
            number += 1
            free = f"{name}_{number}"
        self.taken.add(free)
        return free


def _read(graph: GraphProto) -> Iterator[str]:
    """Yield what nodes read, those of branches and loop bodies too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _read(attribute.g)


def _add_computed_biases(graph: GraphProto) -> bool:
    """Let an Add of its own add what a Gemm adds to its product where that is computed; return whether any is."""
    stored = {tensor.name for tensor in graph.initializer}
    ordered: list[NodeProto] = []
    for node in graph.node:
        ordered.append(node)
        if node.op_type != "Gemm" or not any(node.input[BIAS:]) or node.input[BIAS] in stored:
            continue
        beta = next((each.f for each in node.attribute if each.name == "beta"), 1.0)
        product, bias, result = f"{node.output[0]}.product", node.input[BIAS], node.output[0]
        if beta != 1:
            factor = f"{node.name}.beta"
            graph.initializer.append(numpy_helper.from_array(np.array(beta, np.float32), factor))
            ordered.append(helper.make_node("Mul", [bias, factor], [f"{factor}.scaled"], f"{factor}.scaled"))
            bias = f"{factor}.scaled"
        ordered.append(helper.make_node("Add", [product, bias], [result], f"{node.name}.added"))
        kept = [each for each in node.attribute if each.name != "beta"]
        del node.attribute[:]
        node.attribute.extend(kept)
        del node.input[BIAS:]
        node.output[0] = product
    if len(ordered) == len(graph.node):
        return False
    put_nodes(graph, ordered)
    return True


def _scale_by_factors(node: NodeProto, stored: _Stored) -> None:
    """Multiply stored weights by alpha and a stored bias by beta; a factor of what is computed stays."""
    for attribute in list(node.attribute):
        place = FACTORS.get(attribute.name, len(node.input))
        if attribute.name == "beta" and (len(node.input) <= BIAS or not node.input[BIAS]):
            node.attribute.remove(attribute)
        elif place < len(node.input) and stored.get(node, place) is not None:
            if attribute.f != 1:
                stored.change(node, place, partial(np.multiply, np.float32(attribute.f)))
            node.attribute.remove(attribute)


def _flatten_bias(node: NodeProto, stored: _Stored) -> None:
    """Give a Gemm's bias the shape [outputs] where one number is added to each output, whatever the row."""
    weight, bias = stored.get(node, WEIGHT), stored.get(node, BIAS)
    if weight is None or bias is None or weight.ndim != MATRIX:
        return
    width = weight.shape[output_axis(node)]
    if bias.shape != (width,) and (bias.ndim < MATRIX or bias.shape[0] == 1):
        stored.change(node, BIAS, lambda array: np.broadcast_to(array.reshape(-1), (width,)).copy())


def _separate_axes(graph: GraphProto, stored: _Stored) -> None:
    """Store a weight again for each product that has its outputs along another axis than the first."""
    first: dict[str, tuple[int, ...]] = {}
    copies: dict[tuple[str, tuple[int, ...]], str] = {}
    for node in graph.node:
        if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            continue
        weight = stored.get(node, WEIGHT)
        if weight is None or weight.ndim < MATRIX:
            continue
        name, axis = node.input[WEIGHT], (output_axis(node) % weight.ndim, *_groups(node))
        if first.setdefault(name, axis) == axis:
            continue
        if (name, axis) in copies:
            stored.readers[name] -= 1
            node.input[WEIGHT] = copies[name, axis]
            stored.readers[copies[name, axis]] += 1
        else:
            stored.change(node, WEIGHT, lambda array: array)
            copies[name, axis] = node.input[WEIGHT]


def _groups(node: NodeProto) -> tuple[int, ...]:
    """Return the groups of a transposed convolution: its scales count for each."""
    return tuple(each.i for each in node.attribute if each.name == "group" and node.op_type == "ConvTranspose")
