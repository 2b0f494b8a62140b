"""Which node produces and which nodes consume each value of an ONNX graph, as it is at the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

    #: A scale and a zero point, whose type is that of the numbers.
    Grid = tuple[NDArray[np.float32], NDArray[Any]]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
#: Places of their inputs.
SCALE, ZERO_POINT = 1, 2


def value_producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the node that produces each value; inputs and stored tensors have none."""
    return {value: node for node in graph.node for value in node.output}


def value_consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that consume each value, in the order of the graph, one that takes it twice twice."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            found.setdefault(value, []).append(node)
    return found


def varying_values(graph: GraphProto) -> set[str]:
    """Return the values that depend on an input of the network."""
    found = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found


class Wiring:
    """Who produces and who consumes each value of a graph, and the tensors that are stored in it, at one moment."""

    def __init__(self, graph: GraphProto) -> None:
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.made_by = value_producers(graph)
        self.read_by = value_consumers(graph)
        self.outputs = {value.name for value in graph.output}

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a stored tensor."""
        array: NDArray[Any] = numpy_helper.to_array(self.stored[name])
        return array

    def store(self, name: str, array: NDArray[Any]) -> None:
        """Put other numbers in place of a stored tensor's."""
        self.stored[name].CopyFrom(numpy_helper.from_array(array, name))

    def readers(self, value: str, operator: str) -> list[NodeProto]:
        """Return the nodes of one operator that read a value."""
        return [node for node in self.read_by.get(value, []) if node.op_type == operator]

    def dequantizer(self, value: str) -> NodeProto | None:
        """Return the DequantizeLinear that makes a value, if one does."""
        node = self.made_by.get(value)
        return node if node is not None and node.op_type == DEQUANTIZE else None

    def weight_dequantizer(self, value: str) -> NodeProto | None:
        """Return the DequantizeLinear that makes a value of a stored tensor, if one does."""
        node = self.dequantizer(value)
        return node if node is not None and node.input[0] in self.stored else None

    def is_activation(self, value: str) -> bool:
        """Return whether a value is dequantized and was quantized in the graph: it is no stored weight."""
        node = self.dequantizer(value)
        return node is not None and node.input[0] in self.made_by

    def is_quantized_behind(self, value: str, through: Collection[str] = ()) -> bool:
        """Return whether a value is read, and by QuantizeLinear alone, behind single nodes of `through` or not."""
        readers = self.read_by.get(value, [])
        while len(readers) == 1 and readers[0].op_type in through:
            readers = self.read_by.get(readers[0].output[0], [])
        return bool(readers) and all(each.op_type == QUANTIZE for each in readers)

    def grid(self, value: str) -> Grid | None:
        """Return the scale and zero point of a value that comes out of DequantizeLinear, activation or weight."""
        node = self.dequantizer(value)
        return None if node is None else (self.numbers(node.input[SCALE]), self.numbers(node.input[ZERO_POINT]))

    def activation_grid(self, value: str) -> Grid | None:
        """Return the same, but None for a weight."""
        return self.grid(value) if self.is_activation(value) else None
