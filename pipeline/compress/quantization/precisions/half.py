"""Half precision: weights stored in float16 for size, or a whole graph computed in it where the runtime can.

float16 has 11 bits of mantissa, an error of 5e-4 in each weight, and ends at 65504. Stored weights are cast to float32
when the file is loaded, so that half the bytes give the speed of float32 anywhere. A graph in float16 pays where the
processor and the runtime compute in it (`pipeline.precision.targets` says where); elsewhere it is cast back, node by
node.

OpenVINO needs no file for either precision of 16 bits: it computes a float file in bf16 or f16 when it is asked to.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.quantization.placement import matching_nodes
from pipeline.core.errors import InputError
from pipeline.onnx_graph.file import drop_unread, put_nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnx import ModelProto, NodeProto

#: Operators whose constant operands of two dimensions or more are weights.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gather", "Gemm", "MatMul"})
LARGEST = float(np.finfo(np.float16).max)
#: Inputs that stay in float32 by the definition of their operator: sizes, not data.
_FLOAT32_INPUTS: dict[str, tuple[int, ...]] = {"Resize": (1, 2), "Upsample": (1,)}
FLOAT32, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
MATRIX = 2
#: Ends the names of float32 tensors of nodes that stay in float32.
WIDE = ".wide"


def half_weights(model: ModelProto, *, keep: Sequence[str] = ()) -> ModelProto:
    """Return the graph with its weights stored in float16 and cast to float32; the given one stays as it is.

    Biases and norms, which are small and sensitive, stay in float32, and so does a weight beyond the range of float16
    or one that a node reads whose name matches a pattern of `keep`.

    Raises:
        InputError: no weight qualifies, or a pattern matches no node.
    """
    kept = matching_nodes(model, keep)
    result = deepcopy(model)
    graph = result.graph
    read = {value for node in graph.node if node.op_type in WEIGHTED for value in node.input}
    given = {value.name for value in graph.input} | {
        value for node in graph.node if node.name in kept for value in node.input
    }
    casts: list[NodeProto] = []
    for tensor in graph.initializer:
        weight = numpy_helper.to_array(tensor) if tensor.name in read - given and tensor.data_type == FLOAT32 else None
        if weight is None or weight.ndim < MATRIX or not np.abs(weight).max(initial=0) <= LARGEST:
            continue
        casts.append(
            helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], f"{tensor.name}.cast", to=FLOAT32)
        )
        tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float16), f"{tensor.name}.half"))
    if not casts:
        raise InputError("found no float32 weights within the range of float16, which is what would be halved")
    put_nodes(graph, [*casts, *graph.node])
    return result


def half_graph(model: ModelProto, *, keep: Sequence[str] = ()) -> ModelProto:
    """Return the graph computed in float16 between inputs and outputs in float32; the given one stays as it is.

    Nodes whose name matches a pattern of `keep` are computed in float32, with no cast from one to the next.

    Raises:
        InputError: the graph is quantized or has nested graphs, holds no float32 tensor, or one beyond the range of
            float16, or an operator that is not defined for it, or a pattern matches no node.
    """
    kept = matching_nodes(model, keep)
    result = deepcopy(model)
    graph = result.graph
    _require_plain(graph)
    sizes = {node.input[i] for node in graph.node for i in _FLOAT32_INPUTS.get(node.op_type, ()) if i < len(node.input)}
    if kept:
        sizes |= _keep_in_float(result, kept)
    halved = [_halve(tensor) for tensor in graph.initializer if tensor.name not in sizes]
    constants = [
        _halve_attributes(node) for node in graph.node if node.name not in kept and not sizes & set(node.output)
    ]
    if not any(halved) and not any(constants):
        raise InputError("found no float32 tensor in the graph, which is what would be halved")
    _cast_ends(graph)
    del graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise InputError(f"an operator is not defined for float16: {str(error).splitlines()[0]}") from error
    return inferred


def _keep_in_float(model: ModelProto, kept: Collection[str]) -> set[str]:
    """Let nodes read and make float32, with casts towards the others; return the tensors that are theirs alone.

    In front of a kept node stand casts to float32 named after its tensors, behind it casts back to float16.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    named = (*inferred.value_info, *inferred.input, *inferred.output)
    floats = {value.name for value in named if _is_float(value)}
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT32}
    made = {value for node in graph.node if node.name in kept for value in node.output if value in floats}
    given: dict[str, NodeProto | TensorProto] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name not in kept:
            nodes.append(node)
            continue
        for value in node.input:
            wide = f"{value}{WIDE}"
            if value in stored and wide not in given:
                given[wide] = numpy_helper.from_array(numpy_helper.to_array(stored[value]), wide)
                graph.initializer.append(given[wide])
            elif value in floats - made and value not in stored and wide not in given:
                given[wide] = helper.make_node("Cast", [value], [wide], wide, to=FLOAT32)
                nodes.append(given[wide])
        ends = [value for value in node.output if value in made]
        node.input[:] = [
            f"{value}{WIDE}" if f"{value}{WIDE}" in given or value in made else value for value in node.input
        ]
        node.output[:] = [f"{value}{WIDE}" if value in made else value for value in node.output]
        nodes.append(node)
        nodes += [
            helper.make_node("Cast", [f"{value}{WIDE}"], [value], f"{value}.narrow", to=FLOAT16) for value in ends
        ]
    put_nodes(graph, nodes)
    drop_unread(graph, stored)
    return {*given}


def _require_plain(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if "Quantize" in node.op_type or "Integer" in node.op_type or node.op_type.startswith("QLinear"):
            raise InputError(
                f"found {node.op_type} {node.name}; expected a float graph: quantized ones stay in float32"
            )
        if any(each.HasField("g") or each.graphs for each in node.attribute):
            raise InputError(f"found {node.op_type} {node.name}, which contains a graph; expected a plain graph")


def _halve(tensor: TensorProto) -> bool:
    """Turn a float32 tensor into a float16 one in place; say whether it was one."""
    if tensor.data_type != FLOAT32:
        return False
    values = numpy_helper.to_array(tensor)
    if values.size and not np.abs(values).max() <= LARGEST:
        raise InputError(
            f"{tensor.name or 'a constant'} holds {np.abs(values).max():.3g}; float16 ends at {LARGEST:.0f}"
        )
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    return True


def _halve_attributes(node: NodeProto) -> bool:
    """Turn constants and casts of a node into float16 in place; say whether there was one."""
    found = False
    for each in node.attribute:
        if each.HasField("t"):
            found |= _halve(each.t)
        elif node.op_type == "Cast" and each.name == "to" and each.i == FLOAT32:
            each.i = FLOAT16
        elif node.op_type == "Constant" and each.name in {"value_float", "value_floats"}:
            values = np.float32(each.f) if each.name == "value_float" else np.array(each.floats, np.float32)
            tensor = numpy_helper.from_array(np.asarray(values))
            found |= _halve(tensor)
            each.CopyFrom(helper.make_attribute("value", tensor))
    return found


def _cast_ends(graph: onnx.GraphProto) -> None:
    """Put casts behind the float32 inputs and in front of the float32 outputs; their names stay."""
    stored = {tensor.name for tensor in graph.initializer}
    starts = [each.name for each in graph.input if _is_float(each) and each.name not in stored]
    ends = [each.name for each in graph.output if _is_float(each)]
    renamed = {name: f"{name}.half" for name in (*starts, *ends)}
    for node in graph.node:
        kept = _FLOAT32_INPUTS.get(node.op_type, ())
        node.input[:] = [value if i in kept else renamed.get(value, value) for i, value in enumerate(node.input)]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    before = [helper.make_node("Cast", [name], [renamed[name]], f"{name}.to_half", to=FLOAT16) for name in starts]
    after = [helper.make_node("Cast", [renamed[name]], [name], f"{name}.to_float", to=FLOAT32) for name in ends]
    put_nodes(graph, [*before, *graph.node, *after])


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == FLOAT32)
