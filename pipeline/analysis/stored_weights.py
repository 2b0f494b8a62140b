"""The weights of an exported file as it has them: what is left of masks and clusters once it ships.

Looked at are the layers that multiply by weights: convolutions, matrix products, and the cells of recurrent networks.
Integer weights are less their zero point, so that zero is what the runtime takes for it; they are not scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from pipeline.analysis.cost import ONNX_WEIGHTED, OPENVINO_WEIGHTED
from pipeline.export.openvino import read_openvino
from pipeline.onnx_graph.file import read_onnx
from pipeline.onnx_graph.links import Wiring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import openvino
    from numpy.typing import NDArray
    from onnx import NodeProto

    #: Weights by the name of their layer, in the file's order.
    Weights = dict[str, NDArray[Any]]

#: Places of the weights of ONNX operators that have several, beside those of `ONNX_WEIGHTED`.
_RECURRENT = {"LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}
#: Places of the zero point of integer weights, where the operator itself has it.
_ZERO_POINTS = {"QLinearConv": 5, "QLinearMatMul": 5, "QGemm": 5, "ConvInteger": 3, "MatMulInteger": 3}
_BLOCKS = "MatMulNBits"
_CARRIERS = ("Reshape", "Transpose", "Cast", "Identity", "QuantizeLinear")
_OPENVINO_RECURRENT = {"LSTMSequence": (4, 5), "GRUSequence": (3, 4), "RNNSequence": (3, 4)}
_OPENVINO_SUFFIX = "/WithoutBiases"
#: Operators that a weight passes in OpenVINO with its zeros where they are.
_OPENVINO_CARRIERS = ("Convert", "Multiply", "Reshape", "Transpose", "Unsqueeze", "FakeQuantize")


def onnx_weights(file: Path) -> Weights:
    """Return the weights of an ONNX file by layer, in float, QDQ or QOperator format, or in blocks."""
    graph = read_onnx(file).graph
    wiring = Wiring(graph)
    found: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        places = _places(node)
        for place in places:
            values = _onnx_weights(node, place, wiring)
            if values is not None:
                name = node.name or node.output[0]
                found[name if place == places[0] else f"{name}.{place}"] = values
    return found


def openvino_weights(file: Path) -> Weights:
    """Return the weights of an OpenVINO IR by layer, in float or in integers."""
    found: dict[str, NDArray[Any]] = {}
    for layer in read_openvino(file).get_ordered_ops():
        kind = layer.get_type_name()
        recurrent = _OPENVINO_RECURRENT.get(kind, ())
        for place in recurrent or ((1,) if kind in OPENVINO_WEIGHTED else ()):
            values = _openvino_weights(layer.input_value(place))
            if values is not None:
                name = layer.get_friendly_name().removesuffix(_OPENVINO_SUFFIX)
                # Recurrent gates stand in another order than in ONNX: only their number is compared.
                found[name if name not in found else f"{name}.{place}"] = values.reshape(-1) if recurrent else values
    return found


def _places(node: NodeProto) -> tuple[int, ...]:
    """Return the places of the inputs that hold weights, if the operator multiplies by any."""
    if node.op_type in ONNX_WEIGHTED:
        return ONNX_WEIGHTED[node.op_type][:1]
    return (1,) if node.op_type == _BLOCKS else _RECURRENT.get(node.op_type, ())


def _onnx_weights(node: NodeProto, place: int, wiring: Wiring) -> NDArray[Any] | None:
    """Return a layer's weights less their zero point; None where they are computed from the network's input."""
    if node.op_type == _BLOCKS:
        return _blocks(node, wiring)
    name = node.input[place] if place < len(node.input) else ""
    zero = _ZERO_POINTS.get(node.op_type, len(node.input))
    if name in wiring.stored and zero < len(node.input) and node.input[zero] in wiring.stored:
        axis = 0 if "Conv" in node.op_type else -1
        return _centred(wiring.numbers(name), wiring.numbers(node.input[zero]), axis)
    while name not in wiring.stored:
        made = wiring.made_by.get(name)
        if made is None or made.op_type not in {*_CARRIERS, "DequantizeLinear"}:
            return None
        if made.op_type == "DequantizeLinear" and made.input[0] in wiring.stored:
            return _dequantized(made, wiring)
        name = made.input[0]
    return wiring.numbers(name)


def _dequantized(node: NodeProto, wiring: Wiring) -> NDArray[Any] | None:
    integers = wiring.numbers(node.input[0])
    if len(node.input) < 3 or not node.input[2]:  # noqa: PLR2004 - the place of the zero point, which is 0 without
        return integers
    if node.input[2] not in wiring.stored:
        return None
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    return _centred(integers, wiring.numbers(node.input[2]), axis)


def _centred(integers: NDArray[Any], zero_point: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return integers less their zero point, which is one number or one along `axis`."""
    shape = [-1 if dim == axis % integers.ndim else 1 for dim in range(integers.ndim)]
    zero = zero_point.astype(np.int32)
    return np.asarray(integers.astype(np.int32) - (zero.reshape(shape) if zero.size > 1 else zero.reshape(())))


def _blocks(node: NodeProto, wiring: Wiring) -> NDArray[Any] | None:
    """Return the weights of a product in blocks of 4 or 8 bits, less the middle, without what fills its last block."""
    facts = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    own_zero = len(node.input) > 3 and node.input[3]  # noqa: PLR2004 - the place of the zero points
    if node.input[1] not in wiring.stored or own_zero:
        return None
    packed = numpy_helper.to_array(wiring.stored[node.input[1]])
    if facts["bits"] == 4:  # noqa: PLR2004 - two of them share a byte
        packed = np.stack([packed & 15, packed >> 4], axis=-1)
    numbers = packed.reshape(facts["N"], -1)[:, : facts["K"]].astype(np.int32)
    return np.asarray(numbers - 2 ** (facts["bits"] - 1))


def _openvino_weights(port: openvino.Output) -> NDArray[Any] | None:
    """Return weights less their zero point, not scaled; None where they are computed from the network's input."""
    node = port.get_node()
    kind = node.get_type_name()
    if kind == "Constant":
        return _constant(node)
    if kind == "Subtract":
        values, zero = (_openvino_weights(source) for source in node.input_values())
        return None if values is None or zero is None else np.asarray(values.astype(np.float32) - zero)
    if kind not in _OPENVINO_CARRIERS:
        return None
    given = [_openvino_weights(source) for source in _operands(node)]
    known = [values for values in given if values is not None]
    return max(known, key=np.size) if known and len(known) == len(given) else None


def _operands(node: openvino.Node) -> Iterator[openvino.Output]:
    """Yield what a weight can come from: both factors of a product, the first input of anything else."""
    yield from node.input_values() if node.get_type_name() == "Multiply" else node.input_values()[:1]


def _constant(node: openvino.Node) -> NDArray[Any]:
    from openvino.helpers import unpack_data  # noqa: PLC0415 - only IRs with packed integers need it

    kind = node.get_element_type()
    if kind.get_type_name() in {"u4", "i4"}:
        return np.asarray(unpack_data(node.data.reshape(-1), kind, node.get_output_shape(0)))
    return np.asarray(node.data)
