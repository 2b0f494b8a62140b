"""What an OpenVINO IR asks for, layer by layer: precision, weights, scales, ranges. Runs nothing.

Activations are told to be quantized by FakeQuantize alone, which is how the converter and NNCF write it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.cost import OPENVINO_WEIGHTED, constant_behind, openvino_macs
from pipeline.analysis.openvino_layers import FAKE, constants, described, fake_behind, readers, type_name
from pipeline.analysis.precision_map import CLOSED, FLOAT_TYPES, INTEGER_BITS, Link, PrecisionMap
from pipeline.onnx_graph.wiring import bits_of, quantizer_of
from pipeline.results.file_inspection import FileLayer, Quantizer, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import openvino
    from numpy.typing import NDArray

    from pipeline.analysis.openvino_layers import IrLayers
    from pipeline.results.file_inspection import Precision

#: Operators with integer kernels that have another name in ONNX, or no such kernel in its runtime.
_CLOSED_HERE = CLOSED | frozenset({"Multiply", "Subtract", "AvgPool", "ReduceMean", "Interpolate", "Clamp"})


def openvino_precision_map(ir: IrLayers) -> PrecisionMap:
    """Describe every layer of an IR: FP32, FP16 weights, int8 by FakeQuantize or by stored weights."""
    macs = openvino_macs(ir.model)
    layers = {name: _layer(name, operation, ir, macs) for name, operation in ir.layers.items()}
    return PrecisionMap(tuple(layers.values()), tuple(_links(ir)))


def _layer(name: str, operation: openvino.Node, ir: IrLayers, macs: Mapping[str, int]) -> FileLayer:
    output = ir.output(operation)
    fixed = [port for port in operation.input_values() if port.get_node().get_friendly_name() in ir.fixed]
    if output != operation.output(0):
        fixed += [port for port in output.get_node().input_values() if port.get_node() != operation]
    stored = [constant for port in fixed for constant in constants(port)]
    quantizers = [fake_behind(port) for port in ir.reads(operation)]
    return FileLayer(
        name=name,
        operator=operation.get_type_name(),
        precision=_precision(operation, ir),
        weights=_weights(operation, ir),
        reads=tuple(described(fake) for fake in quantizers if fake is not None),
        makes=next((described(each) for each in readers(output) if each.get_type_name() == FAKE), None),
        parameters=sum(_parameters(port) for port in fixed),
        size_bytes=sum(_stored_bytes(constant) for constant in stored),
        macs=macs.get(operation.get_friendly_name()),
        outputs=prod(output.shape) // max(int(ir.model.input(0).shape[0]), 1),
    )


def _precision(operation: openvino.Node, ir: IrLayers) -> Precision:
    fakes = [fake_behind(port) for port in ir.reads(operation)]
    bits = [described(fake).bits for fake in fakes if fake is not None]
    weights = _weights(operation, ir)
    kind = operation.get_type_name()
    narrowed = all(each.get_type_name() == FAKE for each in readers(ir.output(operation)))
    closed = kind in OPENVINO_WEIGHTED or (kind in _CLOSED_HERE and narrowed)
    if len(bits) == len(fakes) and fakes and closed and (weights is None or weights.quantizer is not None):
        return INTEGER_BITS.get(max(bits), "other")
    if weights is not None and weights.quantizer is not None:
        return "weight-only"
    return FLOAT_TYPES.get(type_name(operation.output(0).get_element_type()), "other")


def _weights(operation: openvino.Node, ir: IrLayers) -> Weights | None:
    if operation.get_type_name() not in OPENVINO_WEIGHTED:
        return None
    port = operation.input_value(1)
    constant = constant_behind(port)
    if constant is None or port.get_node().get_friendly_name() not in ir.fixed:
        return None
    quantizer = _weight_quantizer(port, constant)
    dtype = type_name(constant.get_element_type())
    return Weights(
        tensor=constant.get_friendly_name(),
        dtype=dtype,
        bits=bits_of(dtype) if quantizer is None else quantizer.bits,
        shape=tuple(constant.shape),
        size_bytes=_stored_bytes(constant),
        quantizer=quantizer,
    )


def _weight_quantizer(port: openvino.Output, constant: openvino.Node) -> Quantizer | None:
    """Return how a weight is quantized: by a FakeQuantize, or as whole numbers times a scale less a zero point."""
    fake = fake_behind(port)
    if fake is not None:
        return described(fake).model_copy(update={"tensor": constant.get_friendly_name()})
    dtype = type_name(constant.get_element_type())
    if dtype in FLOAT_TYPES:
        return None
    scale, point, node = None, None, port.get_node()
    while node.get_type_name() != "Constant":
        others = [each for each in node.input_values() if constants(each) and constant_behind(each) != constant]
        if node.get_type_name() == "Multiply":
            scale = np.asarray(constants(others[0])[0].data)
        elif node.get_type_name() == "Subtract":
            point = np.asarray(constants(others[0])[0].data)
        node = next(each.get_node() for each in node.input_values() if constant_behind(each) == constant)
    return _whole(constant.get_friendly_name(), dtype, scale, point)


def _whole(tensor: str, dtype: str, scale: NDArray[Any] | None, point: NDArray[Any] | None) -> Quantizer:
    if scale is None:
        return quantizer_of(tensor, dtype, None, None)
    zero = None if point is None else np.broadcast_to(point.astype(np.int64), scale.shape).reshape(-1)
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    return quantizer_of(tensor, dtype, scale.reshape(-1), zero, axis=axes[0] if axes else 0)


def _links(ir: IrLayers) -> Iterator[Link]:
    ends = {ir.output(operation).get_node().get_friendly_name(): name for name, operation in ir.layers.items()}
    for name, operation in ir.layers.items():
        for port in ir.reads(operation):
            fake = fake_behind(port)
            before = port if fake is None else fake.input_value(0)
            maker = before.get_node().get_friendly_name()
            tensor = before.any_name if before.names else maker
            yield Link(tensor, ends.get(maker), name, None if fake is None else described(fake))


def _parameters(port: openvino.Output) -> int:
    """Return how many numbers that a network learned are behind a fixed port: no shapes, no single constants."""
    largest = max((prod(each.shape) for each in constants(port)), default=0)
    return int(largest) if largest > 1 and type_name(port.get_element_type()) in FLOAT_TYPES else 0


def _stored_bytes(constant: openvino.Node) -> int:
    return int((prod(constant.shape) * bits_of(type_name(constant.get_element_type())) + 7) // 8)
