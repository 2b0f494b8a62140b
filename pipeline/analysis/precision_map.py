"""What an ONNX file asks for, layer by layer: precision, weights, scales, ranges. Reads the graph alone, runs nothing.

A layer computes on integers when every input that moves comes through a DequantizeLinear, its weights are stored (or
faked) as integers, and its operator has integer kernels; what is neither a sum of products nor a mean of its inputs
must also be quantized again right behind it. That is what runtimes look for (QDQ node units of onnxruntime), not what
they do: the runtime's profile tells that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pipeline.analysis.cost import ONNX_WEIGHTED
from pipeline.onnx_graph.links import DEQUANTIZE, QUANTIZE
from pipeline.onnx_graph.wiring import (
    DYNAMIC,
    bits_of,
    describe_quantizer,
    element_types,
    quantizer_of,
    stored_bytes,
    type_name,
)
from pipeline.results.file_inspection import INTEGERS, FileLayer, Quantizer, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto, TensorProto

    from pipeline.onnx_graph.wiring import FileWiring
    from pipeline.results.file_inspection import Precision

#: Operators on integers in QOperator format, with the input that holds the weight's scale (its zero point follows) and
#: the one that holds the output's; -1 for none.
WHOLE = {
    "QLinearConv": (4, 6),
    "QLinearMatMul": (4, 6),
    "QGemm": (4, 7),
    "ConvInteger": (-1, -1),
    "MatMulInteger": (-1, -1),
}
#: Weights of few bits that are widened inside the operator: inputs of scales and zero points.
_WIDENING = {"MatMulNBits": (2, 3)}
#: Operators with integer kernels that need no quantizer behind them.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Those that do: their result is integers or nothing.
CLOSED = frozenset(
    "Add Mul Sub AveragePool GlobalAveragePool MaxPool Concat Sigmoid LeakyRelu Softmax Resize Where Split Transpose "
    "Reshape Flatten Squeeze Unsqueeze Gather Slice Pad Expand DepthToSpace SpaceToDepth Identity Max Min ArgMax "
    "Relu Clip".split()
)
#: What a kernel does on the way out at no cost.
ACTIVATIONS = frozenset({"Relu", "Clip"})
FLOAT_TYPES: dict[str, Precision] = {
    "float32": "float32",
    "float16": "float16",
    "float64": "float64",
    "bfloat16": "bfloat16",
}
INTEGER_BITS: dict[int, Precision] = {2: "int4", 4: "int4", 8: "int8", 16: "int16"}


@dataclass(frozen=True)
class Link:
    """A tensor on its way from one layer to another; `quantizer` when it passes one, `maker` None for an input."""

    tensor: str
    maker: str | None
    reader: str
    quantizer: Quantizer | None


@dataclass(frozen=True)
class PrecisionMap:
    """The layers of a file in the order of computation, and how they are joined."""

    layers: tuple[FileLayer, ...]
    links: tuple[Link, ...]


def onnx_precision_map(wiring: FileWiring) -> PrecisionMap:
    """Describe every layer of an ONNX graph: FP32, FP16, QDQ of any bits, QOperator format, dynamic or weight-only.

    Limits: what stands in bodies of If and Loop is not seen; a weight that is computed of others is described by the
    largest tensor behind it.
    """
    types = element_types(wiring.model)
    found: dict[str, FileLayer] = {}
    for node in wiring.layers:
        found[node.name] = _layer(node, wiring, types, found)
    return PrecisionMap(tuple(found.values()), tuple(_links(wiring, found)))


def _layer(node: NodeProto, wiring: FileWiring, types: dict[str, str], done: dict[str, FileLayer]) -> FileLayer:
    stored = [name for name in node.input if name in wiring.fixed]
    sources = dict.fromkeys(source for name in stored for source in wiring.sources(name))
    counted = [name for name in stored if _is_parameter(name, node, wiring)]
    reads = tuple(_described_inputs(node, wiring))
    return FileLayer(
        name=node.name,
        operator=node.op_type,
        precision=_precision(node, wiring, types, done),
        weights=_weights(node, wiring),
        reads=reads,
        makes=_made(node, wiring),
        parameters=sum(_numbers(name, wiring) for name in counted),
        size_bytes=sum(stored_bytes(wiring.constants[name]) for name in sources),
        saturated_bias=any(_at_the_end(wiring.constants[name], wiring) for name in sources),
    )


def _at_the_end(tensor: TensorProto, wiring: FileWiring) -> bool:
    """Say whether numbers of 32 bits, as biases are stored, reach the end of their type."""
    if type_name(tensor.data_type) != "int32":
        return False
    numbers = wiring.array(tensor.name)
    ends = np.iinfo(np.int32)
    return numbers is not None and bool(((numbers == ends.max) | (numbers == ends.min)).any())


def _precision(node: NodeProto, wiring: FileWiring, types: dict[str, str], done: dict[str, FileLayer]) -> Precision:
    if node.op_type in WHOLE or node.op_type.startswith("QLinear"):
        return "int8"
    if node.op_type in _WIDENING:
        return "weight-only"
    bits = [quantizer.bits for quantizer in _described_inputs(node, wiring)]
    moving = [name for name in node.input if name and name not in wiring.fixed]
    weights = _weights(node, wiring)
    whole_weights = weights is None or weights.quantizer is not None
    closed = node.op_type in PRODUCTS or (node.op_type in CLOSED and _only_narrowed(node, wiring))
    if len(bits) == len(moving) and whole_weights and closed:
        return INTEGER_BITS.get(max(bits), "other")
    if weights is not None and weights.quantizer is not None:
        return "weight-only"
    if node.op_type in ACTIVATIONS and _only_narrowed(node, wiring):
        behind = wiring.made_by.get(node.input[0])
        if behind is not None and behind.name in done and len(wiring.read_by[node.input[0]]) == 1:
            precision = done[behind.name].precision
            if precision in INTEGERS:
                return precision
    return FLOAT_TYPES.get(types.get(node.output[0], "float32"), "other")


def _only_narrowed(node: NodeProto, wiring: FileWiring) -> bool:
    readers = [reader for name in node.output for reader in wiring.read_by.get(name, ())]
    return bool(readers) and all(reader.op_type == QUANTIZE for reader in readers)


def _described_inputs(node: NodeProto, wiring: FileWiring) -> Iterator[Quantizer]:
    for name in node.input:
        if not name or name in wiring.fixed:
            continue
        widened = wiring.dequantizer(name)
        maker = wiring.made_by.get(name)
        if widened is not None:
            yield describe_quantizer(widened, wiring, wiring.before(name))
        elif maker is not None and maker.op_type == DYNAMIC and maker.output[0] == name:
            yield quantizer_of(maker.input[0], "uint8", None, None)
    if node.op_type.startswith("Q"):
        scale, point = wiring.array(node.input[1]), wiring.array(node.input[2])
        yield quantizer_of(node.input[0], _zero_type(node.input[2], wiring), scale, point)


def _made(node: NodeProto, wiring: FileWiring) -> Quantizer | None:
    if narrowed := wiring.narrowed(node.output[0]):
        return describe_quantizer(narrowed, wiring, node.output[0])
    place = WHOLE.get(node.op_type, (-1, -1))[1]
    if node.op_type.startswith("QLinear") and node.op_type not in WHOLE:
        place = len(node.input) - 2  # the last two of QLinearAdd and its like
    if not 0 < place < len(node.input) - 1 or not node.input[place]:
        return None
    point = node.input[place + 1]
    return quantizer_of(node.output[0], _zero_type(point, wiring), wiring.array(node.input[place]), wiring.array(point))


def _zero_type(name: str, wiring: FileWiring) -> str:
    return type_name(wiring.constants[name].data_type) if name in wiring.constants else "uint8"


def _weights(node: NodeProto, wiring: FileWiring) -> Weights | None:
    """Describe the stored tensor that a layer multiplies with; None for layers without one."""
    place = 1 if node.op_type in _WIDENING else ONNX_WEIGHTED.get(node.op_type, (-1, -1))[0]
    if not 0 <= place < len(node.input) or node.input[place] not in wiring.fixed:
        return None
    name = node.input[place]
    quantizer = _weight_quantizer(node, name, wiring)
    sources = wiring.sources(name)
    if not sources:
        return None
    tensor = wiring.constants[max(sources, key=lambda each: prod(wiring.constants[each].dims))]
    dtype = type_name(tensor.data_type)
    bits = bits_of(dtype) if quantizer is None else quantizer.bits
    return Weights(
        tensor=tensor.name or name,
        dtype=dtype,
        bits=bits,
        shape=tuple(tensor.dims),
        size_bytes=stored_bytes(tensor),
        quantizer=quantizer,
    )


def _weight_quantizer(node: NodeProto, name: str, wiring: FileWiring) -> Quantizer | None:
    """Return how a layer's weight is quantized, by a pair on its way or by inputs of the layer itself."""
    if node.op_type in _WIDENING:
        bits = next((each.i for each in node.attribute if each.name == "bits"), 4)
        block = next((each.i for each in node.attribute if each.name == "block_size"), None)
        scale = wiring.array(node.input[_WIDENING[node.op_type][0]])
        middle = np.array(2 ** (bits - 1))  # what is stored is shifted by half where no zero points are
        stored = len(node.input) > _WIDENING[node.op_type][1] and node.input[_WIDENING[node.op_type][1]]
        return quantizer_of(name, f"uint{bits}", scale, None if stored else middle, axis=1, block=block)
    if node.op_type in WHOLE:
        place = WHOLE[node.op_type][0]
        point = node.input[place + 1] if place > 0 else ""
        dtype = type_name(wiring.constants[name].data_type) if name in wiring.constants else "int8"
        scale = wiring.array(node.input[place]) if place > 0 else None
        return quantizer_of(name, dtype, scale, wiring.array(point), axis=0)
    while (maker := wiring.made_by.get(name)) is not None and name not in wiring.constants:
        if maker.op_type == DEQUANTIZE:
            return describe_quantizer(maker, wiring, wiring.before(name))
        name = maker.input[0]
    return None


def _is_parameter(name: str, node: NodeProto, wiring: FileWiring) -> bool:
    """Say whether a fixed input holds numbers that a network learns: no shapes, no scales, no single constants."""
    if node.op_type in WHOLE or node.op_type.startswith("QLinear"):
        return name in {
            node.input[place] for place in ONNX_WEIGHTED.get(node.op_type, ()) if 0 <= place < len(node.input)
        }
    if node.op_type in _WIDENING and name != node.input[1]:
        return False
    sources = [wiring.constants[each] for each in wiring.sources(name)]
    types = {type_name(tensor.data_type) for tensor in sources}
    quantized = wiring.dequantizer(name) is not None
    return _numbers(name, wiring) > 1 and (quantized or bool(types & set(FLOAT_TYPES)) or node.op_type in _WIDENING)


def _numbers(name: str, wiring: FileWiring) -> int:
    """Return how many numbers the largest stored tensor behind a name has."""
    return max((prod(wiring.constants[each].dims) for each in wiring.sources(name)), default=0)


def _links(wiring: FileWiring, layers: dict[str, FileLayer]) -> Iterator[Link]:
    for node in wiring.layers:
        for name in node.input:
            if not name or name in wiring.fixed:
                continue
            tensor = wiring.before(name)
            maker = wiring.made_by.get(tensor)
            converter = _converter(name, wiring)
            yield Link(
                tensor=tensor,
                maker=maker.name if maker is not None and maker.name in layers else None,
                reader=node.name,
                quantizer=None if converter is None else describe_quantizer(converter, wiring, tensor),
            )


def _converter(name: str, wiring: FileWiring) -> NodeProto | None:
    """Return the converter that makes a tensor, if one does: in front of integer layers a QuantizeLinear alone."""
    maker: NodeProto | None = wiring.made_by.get(name)
    return maker if maker is not None and maker.op_type in {DEQUANTIZE, QUANTIZE} else None
