"""A file's nodes as a model of its time sees them: shapes as functions of widths, weights, attributes, blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

from pipeline.compress.pruning.graph import Axis
from pipeline.onnx_graph.links import DEQUANTIZE
from pipeline.pricing.nodes import FileNode
from pipeline.pricing.places import Place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import GraphProto

    from pipeline.pricing.file_blocks import FileBlocks
    from pipeline.pricing.places import FileNumbers

    Shape = tuple[Axis, ...]

#: Operators that integer kernels have of their own, and those that become such between pairs.
_INTEGER = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def describe_nodes(file: FileNumbers, functions: Mapping[Place, Axis], blocks: FileBlocks) -> tuple[FileNode, ...]:
    """Return the nodes of a file, in its order, with its numbers as these functions of widths."""
    graph = file.model.graph
    shapes = _shapes(file, functions)
    stored = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == DEQUANTIZE}
    weights = stored.keys() | {value for value, source in rounded.items() if source in stored}

    def shape(number: int, slot: int, value: str) -> Shape:
        if value in stored:
            return tuple(functions[Place("stored", number, slot, at)] for at in range(stored[value]))
        return shapes.get(value, ())

    return tuple(
        FileNode(
            name=node.name,
            operator=node.op_type,
            inputs=tuple(shape(number, slot, value) for slot, value in enumerate(node.input)),
            outputs=tuple(shapes.get(value, ()) for value in node.output),
            constant=frozenset(slot for slot, value in enumerate(node.input) if value in weights),
            attributes={each.name: _text(helper.get_attribute_value(each)) for each in node.attribute},
            blocks=blocks.of_node(number),
            integers=node.op_type in _INTEGER
            or (node.op_type in _PRODUCTS and all(value in rounded for value in node.input[:2])),
        )
        for number, node in enumerate(graph.node)
    )


def _shapes(file: FileNumbers, functions: Mapping[Place, Axis]) -> dict[str, Shape]:
    """Return the shape of every computed value and input."""
    graph: GraphProto = file.model.graph
    given = {each.name: tuple(Axis(size, {}) for size in file.shapes[each.name]) for each in graph.input}
    made = {
        value: tuple(functions[Place("value", number, slot, at)] for at in range(len(file.shapes.get(value, ()))))
        for number, node in enumerate(graph.node)
        for slot, value in enumerate(node.output)
    }
    return {**given, **made}


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
