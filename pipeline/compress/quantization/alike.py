"""A QDQ graph that rounds alike on every processor, so that equal sums become equal outputs.

Integer sums leave two places where processors differ in onnxruntime 1.31: its integer addition multiplies and adds in
one step on ARM and in two on x86, which breaks ties otherwise, and a mean is summed in floats in another order. An
addition in float is one IEEE operation, the same everywhere, and a mean of whole numbers loses nothing whatever the
order: a sum of fewer than 2^16 bytes fits the 24 bits of a float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.compress.quantization.holding import HOLDS, hold_in_float
from pipeline.onnx_graph.file import put_nodes
from pipeline.onnx_graph.links import value_producers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto

#: Sums of two quantized tensors, which onnxruntime would compute in integers.
SUMS = ("Add", "Sub")
MEAN = "ReduceMean"
#: The scale of integers that are read as they are.
ONE = "round_alike.one"


def round_alike(model: ModelProto) -> ModelProto:
    """Return a copy of a QDQ graph whose additions are computed in float and whose means sum whole numbers.

    The outputs are the same but for the last bit of a mean. It costs the passes that integer additions save.
    """
    result = hold_in_float(model, {node.name for node in model.graph.node if node.op_type in SUMS})
    graph = result.graph
    made = value_producers(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        source = made.get(node.input[0]) if node.op_type == MEAN else None
        if source is not None and _scales_activations(source, made):
            nodes.extend(_mean_of_whole_numbers(node, source))
        else:
            nodes.append(node)
    if len(nodes) > len(graph.node):
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), ONE))
    put_nodes(graph, nodes)
    return result


def _scales_activations(node: NodeProto, made: dict[str, NodeProto]) -> bool:
    return node.op_type == "DequantizeLinear" and node.input[0] in made and node.input[1] != ONE


def _mean_of_whole_numbers(mean: NodeProto, source: NodeProto) -> Iterator[NodeProto]:
    """Yield the mean of the integers that `source` reads, and its product with their scale."""
    whole, average = f"{mean.name}.whole", f"{mean.name}.average"
    yield helper.make_node("DequantizeLinear", [source.input[0], ONE, *source.input[2:]], [whole], whole)
    of_integers = onnx.NodeProto.FromString(mean.SerializeToString())
    of_integers.input[0] = whole
    of_integers.output[0] = average
    yield of_integers
    yield helper.make_node("Mul", [average, source.input[1]], [mean.output[0]], f"{mean.name}.scaled")


def rounding_nodes(model: ModelProto) -> frozenset[str]:
    """Return the names of the float nodes of a graph which `round_alike` has made to round alike."""
    made = value_producers(model.graph)
    return frozenset(node.name for node in model.graph.node if _is_alike(node, made))


def _is_alike(node: NodeProto, made: dict[str, NodeProto]) -> bool:
    sources = [made[value] for value in node.input if value in made]
    if node.op_type in SUMS:
        return any(_holds(source) for source in sources)
    if node.op_type == MEAN:
        return bool(sources) and sources[0].op_type == "DequantizeLinear" and sources[0].input[1] == ONE
    if node.op_type == "Mul":
        return any(source.op_type == MEAN for source in sources)
    return _holds(node)


def _holds(node: NodeProto) -> bool:
    return node.op_type == HOLDS and any(each.name == "alpha" and each.f == 1.0 for each in node.attribute)
