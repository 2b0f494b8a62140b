"""What a file costs on paper: multiplications, parameters and bytes after gzip.

Counted are the layers that multiply by weights: convolutions, transposed convolutions and matrix products. An int8 file
counts as the FP32 file that it was made of does. None of this predicts latency: it is shown next to what was measured.
"""

from __future__ import annotations

import gzip
import math
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx

from pipeline.core.errors import InputError
from pipeline.export.openvino import read_openvino
from pipeline.onnx_graph.execution import onnx_batch, onnx_session, run_onnx
from pipeline.onnx_graph.file import onnx_specs, read_onnx
from pipeline.onnx_graph.links import value_producers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import openvino
    from onnx import ModelProto, NodeProto

_GZIP_LEVEL = 6
#: Operators that multiply by weights, each with the inputs that hold the weight and the bias (-1: it has none).
ONNX_WEIGHTED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1, -1),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3, -1),
    "QGemm": (3, 6),
    "ConvInteger": (1, -1),
    "MatMulInteger": (1, -1),
}
#: Operators that a weight may pass on its way without changing how many numbers it has.
_ONNX_CARRIERS = ("DequantizeLinear", "QuantizeLinear", "Reshape", "Transpose", "Cast", "Identity")
OPENVINO_WEIGHTED = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)
_OPENVINO_CARRIERS = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Unsqueeze", "FakeQuantize")


@dataclass(frozen=True)
class FileCost:
    """Multiply-accumulates for one image, and numbers in weights and biases of the layers that multiply.

    `int8_macs` are those of layers with 8-bit weights. `weight_bytes` are the weights as they are stored, each tensor
    once and without biases: one byte for a number that is quantized. Both are left out when costs are compared.
    """

    macs: int
    parameters: int
    int8_macs: int = field(default=0, compare=False)
    weight_bytes: int = field(default=0, compare=False)


def onnx_cost(file: Path, given: Mapping[str, Sequence[int]] | None = None) -> FileCost:
    """Count an ONNX file, in FP32, QDQ or QOperator format.

    Shapes are taken from a run on zeros, since no inference rule knows onnxruntime's own operators. Not counted: batch
    norm that could not be folded, and products of two activations (attention) as parameters. `given` has the shapes of
    inputs by name where the file leaves sizes open.
    """
    model = read_onnx(file)
    layers = [node for node in model.graph.node if node.op_type in ONNX_WEIGHTED]
    made_by = value_producers(model.graph)
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    widths = {
        tensor.name: int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        for tensor in model.graph.initializer
    }
    shapes = _shapes(model, layers, str(file), given or {})
    counted = onnx_macs(model, shapes)
    parameters = int8_macs = 0
    stored: dict[str, int] = {}
    for node in layers:
        weight, bias = (_source(node, index, made_by) for index in ONNX_WEIGHTED[node.op_type])
        parameters += sum(math.prod(constants[name]) for name in (weight, bias) if name in constants)
        parameters += _added_bias(node, model, made_by, constants)
        if weight in constants:
            width = 1 if _quantized_on_the_way(node, made_by) else widths[weight]
            stored[weight] = math.prod(constants[weight]) * width
            int8_macs += counted[node.output[0]] if width == 1 else 0
    return FileCost(sum(counted.values()), parameters, int8_macs, sum(stored.values()))


def onnx_macs(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the multiplications of each layer that multiplies by weights, for one image, by its first output.

    `shapes` are those of the input and of what these layers read and write, in one call; others are left out.
    """
    made_by = value_producers(model.graph)
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    images = shapes[onnx_specs(model)[0][0].name][0]
    return {
        node.output[0]: _onnx_macs(node, shapes, constants.get(_source(node, weight, made_by))) // images
        for node in model.graph.node
        if node.op_type in ONNX_WEIGHTED and node.output[0] in shapes
        for weight in ONNX_WEIGHTED[node.op_type][:1]
    }


def openvino_cost(file: Path, given: Mapping[str, Sequence[int]] | None = None) -> FileCost:
    """Count an OpenVINO IR, with FP32, FP16 or int8 weights. `given` is as in `onnx_cost`."""
    model = read_openvino(file)
    if given:
        shapes = {port: [*list(port.partial_shape)[:1], *given[port.any_name][1:]] for port in model.inputs}
        model.reshape(shapes)
    if model.input(0).partial_shape[0].is_dynamic:
        model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
    counted = openvino_macs(model)
    parameters = int8_macs = 0
    stored: dict[str, int] = {}
    for layer in model.get_ordered_ops():
        if layer.get_type_name() not in OPENVINO_WEIGHTED:
            continue
        weight = constant_behind(layer.input_value(1))
        parameters += 0 if weight is None else math.prod(weight.shape)
        parameters += sum(_bias_size(target.get_node(), layer) for target in layer.output(0).get_target_inputs())
        if weight is not None:
            width = 1 if _faked(layer.input_value(1)) else weight.get_element_type().size
            stored[weight.get_name()] = math.prod(weight.shape) * width
            int8_macs += counted[layer.get_friendly_name()] if width == 1 else 0
    return FileCost(sum(counted.values()), parameters, int8_macs, sum(stored.values()))


def openvino_macs(model: openvino.Model) -> dict[str, int]:
    """Return the multiplications of each layer that multiplies by weights, for one image, by name; shapes are fixed."""
    images = model.input(0).shape[0]
    layers = (layer for layer in model.get_ordered_ops() if layer.get_type_name() in OPENVINO_WEIGHTED)
    return {layer.get_friendly_name(): _openvino_macs(layer) // images for layer in layers}


def gzip_size_bytes(files: Iterable[Path]) -> int:
    """Return the size of the files' bytes, one after the other, gzip-compressed at level 6 without a time stamp."""
    return len(gzip.compress(b"".join(file.read_bytes() for file in files), _GZIP_LEVEL, mtime=0))


def _shapes(
    model: ModelProto, layers: Iterable[NodeProto], label: str, given: Mapping[str, Sequence[int]]
) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the inputs and of what `layers` read and write, for one sample or the file's own batch."""
    inputs = onnx_specs(model)[0]
    batch = max(onnx_batch(model), 1)
    wanted = dict.fromkeys(value for node in layers for value in (*node.input, *node.output) if value)
    weights = {tensor.name for tensor in model.graph.initializer}
    declared = {value.name for value in (*model.graph.output, *model.graph.input)}
    exposed = deepcopy(model)
    exposed.graph.output.extend(
        onnx.ValueInfoProto(name=value) for value in wanted if value not in weights and value not in declared
    )
    session = onnx_session(exposed, label)
    sizes = {spec.name: tuple(given.get(spec.name, spec.shape))[1:] for spec in inputs}
    for spec in inputs:
        if any(size < 0 for size in sizes[spec.name]):
            raise InputError(f"{label}: input {spec.name} has shape {list(spec.shape)}; expected fixed sizes")
    zeros = {spec.name: np.zeros((batch, *sizes[spec.name]), dtype=spec.dtype) for spec in inputs}
    made = dict(zip([port.name for port in session.get_outputs()], run_onnx(session, None, zeros, label), strict=True))
    return {name: values.shape for name, values in {**zeros, **made}.items()}


def _source(node: NodeProto, index: int, made_by: Mapping[str, NodeProto]) -> str:
    """Return the name of the tensor behind an input, through quantization and reshaping; empty when there is none."""
    if not 0 <= index < len(node.input):
        return ""
    name: str = node.input[index]
    while name in made_by and made_by[name].op_type in _ONNX_CARRIERS:
        name = made_by[name].input[0]
    return name


def _quantized_on_the_way(node: NodeProto, made_by: Mapping[str, NodeProto]) -> bool:
    """Say whether a float weight passes a quantizer before the layer reads it: runtimes keep it in 8 bits then."""
    name = node.input[ONNX_WEIGHTED[node.op_type][0]]
    while name in made_by and made_by[name].op_type in _ONNX_CARRIERS:
        if made_by[name].op_type == "QuantizeLinear":
            return True
        name = made_by[name].input[0]
    return False


def _onnx_macs(node: NodeProto, shapes: Mapping[str, tuple[int, ...]], weight: tuple[int, ...] | None) -> int:
    output, given = math.prod(shapes[node.output[0]]), shapes.get(node.input[0], ())
    if node.op_type == "ConvTranspose":
        return math.prod(given) * math.prod((weight or ())[1:])
    if "Conv" in node.op_type:
        return output * math.prod((weight or ())[1:])
    flipped = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return output * given[-2 if flipped else -1]


def _added_bias(
    node: NodeProto,
    model: ModelProto,
    made_by: Mapping[str, NodeProto],
    constants: Mapping[str, tuple[int, ...]],
) -> int:
    """Return the size of a constant vector that is added right behind a matrix product."""
    if node.op_type != "MatMul":
        return 0
    readers = [other for other in model.graph.node if node.output[0] in other.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return 0
    sources = [_source(readers[0], index, made_by) for index in (0, 1)]
    return sum(math.prod(constants[name]) for name in sources if name in constants)


def _openvino_macs(layer: openvino.Node) -> int:
    given, weight, made = map(_shape, (layer.input_value(0), layer.input_value(1), layer.output(0)))
    kind = layer.get_type_name()
    if kind == "MatMul":
        return math.prod(made) * given[-2 if layer.get_attributes()["transpose_a"] else -1]
    # Weights are [groups, out, in, ...] or [out, in, ...]; of transposed convolutions [groups, in, out, ...].
    each = math.prod(weight[2:] if kind.startswith("Group") else weight[1:])
    return math.prod(given if "Backprop" in kind else made) * each


def constant_behind(port: openvino.Output) -> openvino.Node | None:
    """Return the constant that a weight is made of, the largest where its scale and zero point are others.

    None when the weight is computed from the network's input.
    """
    node = port.get_node()
    if node.get_type_name() == "Constant":
        return node
    if node.get_type_name() not in _OPENVINO_CARRIERS:
        return None
    found = [constant_behind(source) for source in node.input_values()]
    constants = [one for one in found if one is not None]
    return max(constants, key=lambda one: math.prod(one.shape)) if len(constants) == len(found) else None


def _faked(port: openvino.Output) -> bool:
    """Say whether a float weight passes a FakeQuantize: OpenVINO keeps it in 8 bits then."""
    node = port.get_node()
    kind = node.get_type_name()
    if kind not in _OPENVINO_CARRIERS:
        return False
    return kind == "FakeQuantize" or any(_faked(source) for source in node.input_values())


def _bias_size(reader: openvino.Node, layer: openvino.Node) -> int:
    """Return the size of the constant that `reader` adds to each channel of the layer's output, 0 for none."""
    if reader.get_type_name() != "Add":
        return 0
    other = next(value for value in reader.input_values() if value.get_node() != layer)
    constant = constant_behind(other)
    channels = _shape(layer.output(0))[-1 if layer.get_type_name() == "MatMul" else 1]
    return channels if constant is not None and math.prod(constant.shape) == channels else 0


def _shape(port: openvino.Output) -> tuple[int, ...]:
    return tuple(int(dim) for dim in port.shape)
