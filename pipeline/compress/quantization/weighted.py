"""The layers of a QDQ graph that have quantized weights: their integers, scales and biases, to read and to change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from pipeline.core.errors import InputError
from pipeline.onnx_graph.links import value_producers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

#: Places of the inputs of a layer, and of DequantizeLinear.
WEIGHT, BIAS, ZERO_POINT = 1, 2, 2
OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class StoredWeights:
    """Integers with their scale and zero point, which broadcast along `axis`; axis None: one scale for all.

    `shared` says that another node reads them too.
    """

    tensor: TensorProto
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None
    shared: bool = False

    @property
    def integers(self) -> NDArray[Any]:
        """The integers as they stand in the file."""
        return numpy_helper.to_array(self.tensor)

    def broadcast(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a scale or zero point in the shape in which it broadcasts against the integers."""
        if self.axis is None:
            return values.reshape(())
        dims = len(self.tensor.dims)
        return values.reshape([-1 if dim == self.axis % dims else 1 for dim in range(dims)])

    def replace(self, integers: NDArray[Any]) -> None:
        """Write other integers of the same type and shape into the file."""
        old = self.integers
        self.tensor.CopyFrom(numpy_helper.from_array(integers.astype(old.dtype).reshape(old.shape), self.tensor.name))


@dataclass(frozen=True)
class WeightedLayer:
    """A node with quantized weights; `bias` is None where it has none, a float tensor where it is not quantized.

    `bias_shared` says that another node reads the bias too.
    """

    node: NodeProto
    weight: StoredWeights
    bias: StoredWeights | TensorProto | None
    bias_shared: bool = False

    def shift_bias(self, shift: NDArray[np.float32]) -> None:
        """Add to the bias, one number for each output channel. Raises InputError when the layer has none."""
        if self.bias is None:
            raise InputError(f"{self.node.op_type} {self.node.name} has no bias")
        if isinstance(self.bias, StoredWeights):
            steps = np.rint(shift / self.bias.scale.reshape(-1)).astype(np.int64)
            limits = np.iinfo(np.int32)
            self.bias.replace(np.clip(self.bias.integers.astype(np.int64) + steps, limits.min, limits.max))
        else:
            changed = numpy_helper.to_array(self.bias) + shift
            self.bias.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), self.bias.name))


def weighted_layers(model: ModelProto) -> dict[str, WeightedLayer]:
    """Return the layers with quantized weights by node name, in the order of computation."""
    return {layer.node.name: layer for layer in _layers(model)}


def _layers(model: ModelProto) -> Iterator[WeightedLayer]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = value_producers(model.graph)
    readers = Counter(value for node in model.graph.node for value in node.input)

    def stored(name: str) -> StoredWeights | None:
        node = made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            return None
        integers = tensors[node.input[0]]
        scale = numpy_helper.to_array(tensors[node.input[1]])
        given = node.input[ZERO_POINT] if len(node.input) > ZERO_POINT else ""
        zero = numpy_helper.to_array(tensors[given]) if given else np.zeros_like(scale, np.int8)
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1) if scale.size > 1 else None
        return StoredWeights(integers, scale, zero, axis, shared=max(readers[name], readers[node.input[0]]) > 1)

    for node in model.graph.node:
        weight = stored(node.input[WEIGHT]) if node.op_type in OPERATORS else None
        if weight is None:
            continue
        name = node.input[BIAS] if len(node.input) > BIAS else ""
        bias = (stored(name) or tensors.get(name)) if name else None
        yield WeightedLayer(node, weight, bias, bias.shared if isinstance(bias, StoredWeights) else readers[name] > 1)
