"""Every number of an ONNX file that its network's widths may decide, by its place, and all that they must not decide.

Files of one network at other widths have the same nodes in the same order, wired alike; names may differ, and a tensor
that two nodes share in one file may be two in another. So a place is an input, output or attribute of the node with
that number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from pipeline.onnx_graph.execution import onnx_traces
from pipeline.onnx_graph.links import DEQUANTIZE
from pipeline.pricing.widths import NoTemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto

#: Stored integers up to this many may state sizes: shapes, bounds, axes. Longer ones are tables of indices.
_FEW = 64
_NUMBERS = (AttributeProto.INT, AttributeProto.INTS)


class Place(NamedTuple):
    """Where a number stands.

    `kind`: a size of what is "stored" at an input or of a computed "value" at an output; a "number" in a stored tensor
    of integers; a number of an "attribute". `slot` is the input or output, or the attribute's name, `at` which number.
    """

    kind: str
    node: int
    slot: int | str
    at: int


@dataclass(frozen=True)
class FileNumbers:
    """The numbers of a file by their places, and for each node what must be the same at all widths."""

    model: ModelProto
    shapes: dict[str, tuple[int, ...]]
    numbers: dict[Place, int]
    fixed: tuple[tuple[Any, ...], ...]

    def require_like(self, other: FileNumbers) -> None:
        """Raise NoTemplateError unless another file has the same nodes, wired alike, with numbers at these places."""
        if len(self.fixed) != len(other.fixed):
            raise NoTemplateError(f"the file has {len(self.fixed)} nodes, and {len(other.fixed)} at other widths")
        for node, here, there in zip(self.model.graph.node, self.fixed, other.fixed, strict=True):
            if here != there:
                raise NoTemplateError(
                    f"node {node.name} ({node.op_type}) is another, or wired otherwise, at other widths"
                )
        if different := self.numbers.keys() ^ other.numbers.keys():
            node = self.model.graph.node[min(place.node for place in different)]
            raise NoTemplateError(f"node {node.name} ({node.op_type}) has tensors of other ranks at other widths")


def read_numbers(model: ModelProto) -> FileNumbers:
    """Collect the numbers of a file. Raises NoTemplateError for one with open sizes or with graphs within nodes."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    shapes = value_shapes(model)
    made = {value: (number, slot) for number, node in enumerate(graph.node) for slot, value in enumerate(node.output)}
    numbers: dict[Place, int] = {}
    fixed = []
    for number, node in enumerate(graph.node):
        wiring: list[object] = [node.op_type, node.domain, len(node.output)]
        for slot, value in enumerate(node.input):
            wiring.append("stored" if value in stored else made.get(value, value))
            if value in stored:
                numbers |= _of_tensor(stored[value], node, number, slot)
                wiring.append(_unlike_sizes(stored[value], node))
        for slot, value in enumerate(node.output):
            numbers |= {Place("value", number, slot, at): size for at, size in enumerate(shapes.get(value, ()))}
        for attribute in node.attribute:
            numbers |= {Place("attribute", number, attribute.name, at): one for at, one in _integers(attribute)}
            wiring.append(_unlike_numbers(attribute, node))
        fixed.append(tuple(wiring))
    return FileNumbers(model, shapes, numbers, tuple(fixed))


def is_sizes(tensor: TensorProto, node: NodeProto) -> bool:
    """Say whether a stored tensor is of integers that may state sizes; a DequantizeLinear reads biases of int32."""
    return tensor.data_type in {TensorProto.INT64, TensorProto.INT32} and node.op_type != DEQUANTIZE


def value_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every value that a node makes or the network is given.

    Where onnx does not know an operator the file is run.

    Raises:
        NoTemplateError: a size is open.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    missing = [each for node in model.graph.node for each in node.output if each and each not in found]
    return {**found, **_run_shapes(model, missing)} if missing else found


def _run_shapes(model: ModelProto, values: list[str]) -> dict[str, tuple[int, ...]]:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    feeds = {}
    for value in copy.graph.input:
        tensor = value.type.tensor_type
        if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise NoTemplateError(f"input {value.name} has an open size")
        shape = [dim.dim_value for dim in tensor.shape.dim]
        feeds[value.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    (found,) = onnx_traces(copy, [feeds], values, label="the file")
    return {name: tuple(array.shape) for name, array in found.items()}


def _of_tensor(tensor: TensorProto, node: NodeProto, number: int, slot: int) -> dict[Place, int]:
    found = {Place("stored", number, slot, at): size for at, size in enumerate(tensor.dims)}
    if is_sizes(tensor, node) and np.prod(tensor.dims, dtype=np.int64) <= _FEW:
        flat = numpy_helper.to_array(tensor).ravel().tolist()
        found |= {Place("number", number, slot, at): int(one) for at, one in enumerate(flat)}
    return found


def _unlike_sizes(tensor: TensorProto, node: NodeProto) -> object:
    """Return what must be the same of a stored tensor: its type, and a long table's numbers."""
    table = is_sizes(tensor, node) and np.prod(tensor.dims, dtype=np.int64) > _FEW
    return (tensor.data_type, numpy_helper.to_array(tensor).tobytes() if table else b"")


def _integers(attribute: AttributeProto) -> Iterator[tuple[int, int]]:
    if attribute.type in _NUMBERS:
        yield from enumerate([attribute.i] if attribute.type == AttributeProto.INT else attribute.ints)


def _unlike_numbers(attribute: AttributeProto, node: NodeProto) -> object:
    """Return what must be the same of an attribute: all of it, unless it is of integers."""
    if attribute.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
        raise NoTemplateError(f"node {node.name} ({node.op_type}) holds a graph of its own")
    if attribute.type in _NUMBERS:
        return attribute.name
    return (attribute.name, attribute.SerializeToString(deterministic=True))
