"""Cross-layer equalization: make the ranges of channels alike before weights get one scale or few bits.

Between two layers with only a positively homogeneous function between them (ReLU, PReLU, pooling, none), a channel's
output can be divided by s and the next layer's weights for it multiplied by s: the network stays the same. With
s = sqrt(range of the first layer's channel / range of the second's), both have equal ranges.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.1.
It helps depthwise networks with weights of one scale, and activations whose channels differ much. It cannot pass a
bounded activation (ReLU6, hard-swish), an addition, or a tensor that two nodes read: such pairs stay, and a network of
nothing else raises InputError. Differs: channels that are next to nothing in either layer stay, for dividing by their
range would blow up the bias and with it the range of the whole activation.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.core.errors import InputError
from pipeline.onnx_graph.links import value_consumers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

#: Functions with f(s x) = s f(x) for s > 0, channel by channel, of their first input.
_HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity"}
)
ROUNDS = 20
_CONVERGED = 1e-3
#: Channels below this share of their layer's range are next to nothing.
_FAINT = 1e-4


def equalize_channels(model: ModelProto) -> tuple[ModelProto, tuple[tuple[str, str], ...]]:
    """Return an equal network with equalized channels, and the pairs of layers it was done for.

    Raises InputError when no two layers are joined by homogeneous functions alone.
    """
    result = deepcopy(model)
    pairs = _pairs(result)
    if not pairs:
        raise InputError("no two layers are joined directly or only by ReLU or pooling: there is nothing to equalize")
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    for _ in range(ROUNDS):
        moved = [_equalize_pair(first, second, tensors) for first, second in pairs]
        if max(moved) < _CONVERGED:
            break
    return result, tuple((first.name, second.name) for first, second in pairs)


def _pairs(model: ModelProto) -> list[tuple[NodeProto, NodeProto]]:
    graph = model.graph
    readers = value_consumers(graph)
    outputs = {value.name for value in graph.output}
    constants = {tensor.name for tensor in graph.initializer}
    shared = {name for name in constants if len(readers.get(name, [])) > 1}
    pairs: list[tuple[NodeProto, NodeProto]] = []
    for node in graph.node:
        if node.op_type != "Conv" or not {*filter(None, node.input[1:])} <= constants - shared:
            continue
        value = node.output[0]
        while value not in outputs and len(readers.get(value, [])) == 1:
            reader = readers[value][0]
            if reader.op_type not in _HOMOGENEOUS or not {*reader.input[1:]} <= constants:
                weight_is_own = len(reader.input) > 1 and reader.input[1] in constants - shared
                if reader.op_type == "Conv" and reader.input[0] == value and weight_is_own:
                    pairs.append((node, reader))
                break
            value = reader.output[0]
    return pairs


def _equalize_pair(first: NodeProto, second: NodeProto, tensors: dict[str, onnx.TensorProto]) -> float:
    weight = numpy_helper.to_array(tensors[first.input[1]])
    following = numpy_helper.to_array(tensors[second.input[1]])
    groups = next((each.i for each in second.attribute if each.name == "group"), 1)
    by_input = _by_input_channel(following, groups)
    ranges = np.abs(weight).reshape(len(weight), -1).max(1), np.abs(by_input).reshape(len(weight), -1).max(1)
    usable = (ranges[0] > _FAINT * ranges[0].max()) & (ranges[1] > _FAINT * ranges[1].max())
    scale = np.ones(len(weight), np.float32)
    scale[usable] = np.sqrt(ranges[0][usable] / ranges[1][usable])
    _write(tensors, first.input[1], weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    if any(first.input[2:]):  # the bias
        _write(tensors, first.input[2], numpy_helper.to_array(tensors[first.input[2]]) / scale)
    scaled = by_input * scale.reshape(-1, *[1] * (by_input.ndim - 1))
    _write(tensors, second.input[1], _by_output_channel(scaled, following.shape, groups))
    return float(np.abs(np.log(scale)).max())


def _by_input_channel(weight_OIHW: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Return the weights with the network's input channels first: [I * groups, O / groups, ...]."""
    out, width, *rest = weight_OIHW.shape
    grouped = weight_OIHW.reshape(groups, out // groups, width, *rest).swapaxes(1, 2)
    return grouped.reshape(groups * width, out // groups, *rest)


def _by_output_channel(weight: NDArray[np.float32], shape: tuple[int, ...], groups: int) -> NDArray[np.float32]:
    out, width, *rest = shape
    return weight.reshape(groups, width, out // groups, *rest).swapaxes(1, 2).reshape(shape)


def _write(tensors: dict[str, onnx.TensorProto], name: str, values: NDArray[Any]) -> None:
    tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
