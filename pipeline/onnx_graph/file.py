"""ONNX files: read, written with the same bytes each time, and what goes in and out of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx

from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

#: Numbers of one input or output: two thousand million of them take eight gigabytes.
_MOST_NUMBERS = 2**31
_KNOWN_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
LAYOUTS = {4: "NCHW", 2: "NC"}
#: Operators that work on integers start with one of these (QDQ and QOperator format).
_INTEGER_OPERATORS = ("QuantizeLinear", "QLinear", "QGemm", "ConvInteger", "MatMulInteger")


def read_onnx(file: Path) -> ModelProto:
    """Read a model. Raises InputError when the file is missing or is no ONNX model."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected an ONNX model")
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError: no common root
        raise InputError(f"{file} is not a valid ONNX model: {first_line(error)}") from error
    _require_sizes(model, file)
    return model


def write_onnx(model: ModelProto, file: Path) -> None:
    """Write a model; the same model gives the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model.SerializeToString(deterministic=True))


def finish_model(model: ModelProto) -> ModelProto:
    """Return the model without a trace of how it was made, with inferred shapes, checked against the ONNX rules.

    Removed are metadata, doc strings, and the producer's name and version.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for field in ("producer_name", "producer_version", "domain"):
        model.ClearField(field)
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx.checker.check_model(inferred)
    return inferred


def onnx_specs(model: ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a model; initializers that are listed as inputs are left out."""
    return input_specs(model), tuple(_spec(value) for value in model.graph.output)


def input_specs(model: ModelProto) -> tuple[TensorSpec, ...]:
    """Return the inputs of a model alone, whatever is known of its outputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in weights)


def onnx_ports(file: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a file. Raises InputError when it cannot be read."""
    return onnx_specs(read_onnx(file))


def put_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Make copies of these the nodes of a graph, in this order; they may be its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def drop_unread(graph: GraphProto, among: Collection[str] | None = None) -> None:
    """Take out the stored tensors that nothing reads, or those `among` them."""
    read = {value for node in graph.node for value in node.input} | {value.name for value in graph.output}
    for tensor in list(graph.initializer):
        if tensor.name not in read and (among is None or tensor.name in among):
            graph.initializer.remove(tensor)


def is_quantized(model: ModelProto) -> bool:
    """Return whether any node works on integers."""
    return any(node.op_type.startswith(_INTEGER_OPERATORS) for node in model.graph.node)


def _require_sizes(model: ModelProto, file: Path) -> None:
    """Refuse inputs and outputs that no runtime can have, and weights of a type that there is not."""
    for value in (*model.graph.input, *model.graph.output):
        require_size(value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim], file)
    for tensor in model.graph.initializer:
        if tensor.data_type not in _KNOWN_TYPES:
            raise InputError(f"{file} is damaged: {tensor.name} is of the type {tensor.data_type}, which there is not")


def require_size(name: str, sizes: Sequence[int], file: Path) -> None:
    """Refuse the shape of an input or output that no runtime can have; -1 leaves a size open."""
    if any(size < -1 for size in sizes):
        raise InputError(f"{file} is damaged: {name} has the shape {list(sizes)}; expected sizes of 1 or more")
    if math.prod(max(size, 1) for size in sizes) > _MOST_NUMBERS:
        raise InputError(f"{file}: {name} has the shape {list(sizes)}, more numbers than a runtime can hold")


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError as error:  # a sequence, an optional value, or a number that stands for no type
        raise InputError(
            f"{value.name} is not a tensor of a type that can be run; expected images or numbers"
        ) from error
    return TensorSpec(name=value.name, shape=shape, dtype=dtype, layout=LAYOUTS.get(len(shape), ""))
