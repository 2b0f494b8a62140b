"""Nodes that are to stay in float stay so in onnxruntime too, which else takes them back.

A float node between pairs of QuantizeLinear and DequantizeLinear looks as if it were quantized: onnxruntime fuses an
addition into an integer one, and quantizes a convolution's weights when it loads the file (its optimizer
WeightBiasQuantization, 1.31). A LeakyRelu of slope 1 in front, which changes nothing and which no optimizer removes,
holds the node in float, for the time of one pass over its input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx import ModelProto, NodeProto

#: What onnxruntime looks through on the way to QuantizeLinear.
TRANSPARENT = ("Relu", "Clip")
#: With a slope of 1.
HOLDS = "LeakyRelu"


def hold_in_float(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy of a QDQ graph in which the nodes of these names are computed in float.

    Only nodes that read dequantized activations and whose result is quantized again need to be held.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    made = {value: node for node in graph.node for value in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in names and _quantized_behind(node, readers):
            for place, value in enumerate(node.input):
                if _is_activation(made.get(value), made):
                    held = f"{node.name}.float{place or ''}"
                    nodes.append(helper.make_node(HOLDS, [value], [held], held, alpha=1.0))
                    node.input[place] = held
        nodes.append(node)
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    return result


def _is_activation(node: NodeProto | None, made: dict[str, NodeProto]) -> bool:
    """Say whether a DequantizeLinear gives back what was quantized in the graph, not stored weights."""
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in made


def _quantized_behind(node: NodeProto, readers: dict[str, list[NodeProto]]) -> bool:
    """Say whether all that reads a node's result is QuantizeLinear, behind an activation function or not."""
    behind = readers.get(node.output[0], [])
    while len(behind) == 1 and behind[0].op_type in TRANSPARENT:
        behind = readers.get(behind[0].output[0], [])
    return bool(behind) and all(each.op_type == "QuantizeLinear" for each in behind)
