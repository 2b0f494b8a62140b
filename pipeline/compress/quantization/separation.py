"""Give each node weights of its own where an exporter stored equal ones once.

Two layers whose biases are equal read one tensor in an exported file, and one whose bias is all zeros reads none. That
is no harm until they are trained: then each needs its own. Weights that a network really shares, of a layer that is
called twice, stay one tensor.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, numpy_helper

from pipeline.compress.quantization.weighted import BIAS, OPERATORS, WEIGHT

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx import ModelProto, NodeProto

#: What a layer calls its inputs.
_ROLES = {WEIGHT: "weight", BIAS: "bias"}


def separate_tensors(model: ModelProto, tied: Collection[str]) -> ModelProto:
    """Return a copy in which float tensors that several nodes read are stored once for each, but for those in `tied`.

    Copies are named after the node (`conv2.bias`). A bias is tied when the weights of its layer are.
    """
    result = deepcopy(model)
    graph = result.graph
    stored = {each.name: each for each in graph.initializer if each.data_type == TensorProto.FLOAT and each.dims}
    taken = {each.name for each in graph.initializer} | {value for node in graph.node for value in node.output}
    one = _really_one(list(graph.node), tied)
    first: dict[str, str] = {}
    copies: dict[tuple[str, str], str] = {}
    for node in graph.node:
        own = node.input[WEIGHT] if node.op_type in OPERATORS and node.input[WEIGHT] in one else node.name
        for place, name in enumerate(node.input):
            if name not in stored or (name in tied and node.op_type not in OPERATORS):
                continue
            reader = name if name in one else own if node.op_type in OPERATORS else f"{own}:{place}"
            if first.setdefault(name, reader) == reader:
                continue
            if (name, reader) not in copies:
                copies[name, reader] = _copy(
                    result, stored[name], f"{node.name}.{_ROLES.get(place, 'constant')}", taken
                )
            node.input[place] = copies[name, reader]
    return result


def with_biases(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy in which these nodes have a bias: one of zeros where exporters left that out."""
    result = deepcopy(model)
    widths = {tensor.name: tensor.dims[0] for tensor in result.graph.initializer if tensor.dims}
    taken = {tensor.name for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.name in names and node.op_type == "Conv" and not any(node.input[BIAS:]):
            zeros = numpy_helper.from_array(np.zeros(widths[node.input[WEIGHT]], np.float32))
            node.input[BIAS:] = [_copy(result, zeros, f"{node.name}.{_ROLES[BIAS]}", taken)]
    return result


def _really_one(nodes: list[NodeProto], tied: Collection[str]) -> frozenset[str]:
    """Return the tied weights of layers that have the same bias too."""
    biases: dict[str, set[str]] = {}
    for node in nodes:
        if node.op_type in OPERATORS and node.input[WEIGHT] in tied:
            biases.setdefault(node.input[WEIGHT], set()).add("".join(node.input[BIAS:]))
    return frozenset(name for name, found in biases.items() if len(found) == 1)


def _copy(model: ModelProto, tensor: TensorProto, name: str, taken: set[str]) -> str:
    """Store a tensor once more; return its name."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    new = TensorProto()
    new.CopyFrom(tensor)
    new.name = free
    model.graph.initializer.append(new)
    return free
