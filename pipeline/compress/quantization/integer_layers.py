"""The layers of a QDQ graph that run on integer kernels, and the numbers that those kernels multiply.

A convolution or matrix product runs on integers when its data and its weights come out of DequantizeLinear nodes and
the weights are constant; a convolution must also be quantized behind (a ReLU or Clip may stand between), since the
runtimes have no integer convolution that returns floats.

Kernels of onnxruntime (MLAS) see every such layer as a matrix product of rows [positions, K] and weights [K, M]. For a
convolution K runs over the kernel's positions first and the input channels of the group last, which is so both for its
im2col and for its direct kernels (`QLinearConv`, `MlasConvSymPackW`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.compress.quantization.qdq import TRANSPARENT
from pipeline.onnx_graph.links import ZERO_POINT, Wiring, varying_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class IntegerLayer:
    """One layer: where its integers come from, and its weights.

    `activations` is the integer tensor behind its data and `output` its own float output. `weight` is stored as in the
    graph, uint8 or int8; `w_scale` [M] has a scale for each output channel.
    """

    name: str
    operator: str
    activations: str
    output: str
    x_scale: float
    x_zero_point: int
    x_signed: bool
    weight: NDArray[Any]
    w_scale: NDArray[np.float64]
    attributes: dict[str, Any]

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for a matrix product."""
        return int(self.attributes.get("group", 1)) if self.operator == "Conv" else 1

    @property
    def is_depthwise(self) -> bool:
        """Whether each group has one channel in and one out: such layers have kernels of their own."""
        return self.operator == "Conv" and self.weight.shape[:2] == (self.groups, 1)

    def kernel_weights(self) -> NDArray[np.int32]:
        """Return the weights as kernels order them: [groups, K, M / groups]."""
        weight = self.weight.astype(np.int32)
        if self.operator == "Conv":
            # [M, C / groups, *kernel] -> [groups, M / groups, C / groups, *kernel]
            # -> [groups, *kernel, C / groups, M / groups] -> [groups, K, M / groups]
            split = weight.reshape(self.groups, -1, *weight.shape[1:])
            spatial = range(3, split.ndim)
            return split.transpose(0, *spatial, 2, 1).reshape(self.groups, -1, split.shape[1])
        return (weight.T if self.attributes.get("transB", 0) else weight)[None]

    def positions(self, outputs: Sequence[int]) -> int:
        """Return how many rows one inference has, given the shape of the output."""
        return int(np.prod(outputs[2:]) * outputs[0] if self.operator == "Conv" else np.prod(outputs[:-1]))

    def rows(self, x: NDArray[Any], outputs: Sequence[int], chosen: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows [groups, len(chosen), K] of the integers `x` for some positions of an output of that shape.

        Padding holds the zero point, as in the kernels.
        """
        if self.operator != "Conv":
            flat = x.T if self.attributes.get("transA", 0) else x
            return flat.reshape(-1, flat.shape[-1])[chosen][None]
        # x [N, C, *spatial], output [N, M, *places]: `chosen` are positions of [N, *places]; taps [dimensions, kernel]
        image, *places = np.unravel_index(chosen, (outputs[0], *outputs[2:]))
        kernel = self.weight.shape[2:]
        taps = np.indices(kernel).reshape(len(kernel), -1)
        strides, dilations, begins = _window(self.attributes, x.shape[2:], kernel)
        inside = np.ones((len(chosen), taps.shape[1]), dtype=bool)
        index: list[NDArray[np.int64]] = []
        for axis, length in enumerate(x.shape[2:]):
            # [chosen, kernel]: where each tap of each position reads along this axis; outside it lies the padding
            at = places[axis][:, None] * strides[axis] + taps[axis] * dilations[axis] - begins[axis]
            inside &= (at >= 0) & (at < length)
            index.append(np.clip(at, 0, length - 1))
        # [N, *spatial, C] indexed by [chosen, kernel] -> patches [chosen, kernel, C]
        patches = np.moveaxis(x, 1, -1)[(image[:, None], *index)]
        patches[~inside] = self.x_zero_point
        # -> [groups, chosen, kernel, C / groups] -> [groups, chosen, K]
        split = np.moveaxis(patches.reshape(*patches.shape[:2], self.groups, -1), 2, 0)
        rows: NDArray[Any] = split.reshape(self.groups, len(chosen), -1)
        return rows


def integer_layers(model: ModelProto) -> tuple[IntegerLayer, ...]:
    """Return the layers that run on integer kernels, in the order of the graph."""
    graph = _Graph(model)
    return tuple(layer for node in model.graph.node if (layer := graph.layer(node)) is not None)


def float_products(model: ModelProto) -> tuple[str, ...]:
    """Return the names of convolutions and matrix products that are not integer layers."""
    on_integers = {layer.output for layer in integer_layers(model)}
    return tuple(
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type in PRODUCTS and node.output[0] not in on_integers
    )


class _Graph(Wiring):
    """A graph, and what is constant in it."""

    def __init__(self, model: ModelProto) -> None:
        super().__init__(model.graph)
        self.constants = {name: numpy_helper.to_array(tensor) for name, tensor in self.stored.items()}
        self.opsets = {each.domain: each.version for each in model.opset_import}
        #: Walking back to an input of the network takes paths without number.
        self.varying = varying_values(model.graph)
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = np.asarray(_attributes(node)["value"])

    def layer(self, node: NodeProto) -> IntegerLayer | None:
        if node.op_type not in PRODUCTS or (
            node.op_type == "Conv" and not self.is_quantized_behind(node.output[0], TRANSPARENT)
        ):
            return None
        data, weights = map(self.dequantizer, node.input[:2])
        if data is None or weights is None:
            return None
        integers = self._integers(weights.input[0])
        x_scale, zero = self.constants.get(data.input[1]), self._zero_point(data)
        scales = self.constants.get(weights.input[1])
        if (
            integers is None
            or x_scale is None
            or x_scale.size != 1
            or zero is None
            or scales is None
            or scales.ndim > 1
        ):
            return None
        attributes = _attributes(node)
        transposed = node.op_type == "Conv" or attributes.get("transB", 0)
        width = integers.shape[0] if transposed else integers.shape[-1]
        return IntegerLayer(
            name=node.name or node.output[0],
            operator=node.op_type,
            activations=data.input[0],
            output=node.output[0],
            x_scale=float(x_scale.item()),
            x_zero_point=int(zero.item()),
            x_signed=zero.dtype == np.int8,
            weight=integers,
            w_scale=np.broadcast_to(scales.astype(np.float64).ravel(), (width,)),
            attributes=attributes,
        )

    def _zero_point(self, node: NodeProto) -> NDArray[Any] | None:
        """Return a zero point of 8 bits; left out, it is an unsigned 0."""
        if len(node.input) <= ZERO_POINT:
            return np.zeros((), np.uint8)
        found = self.constants.get(node.input[ZERO_POINT])
        return (
            found if found is not None and found.size == 1 and found.dtype in {np.dtype("u1"), np.dtype("i1")} else None
        )

    def _integers(self, name: str) -> NDArray[Any] | None:
        """Return constant weights of 8 bits: stored so, or made of constants by nodes that the runtime folds."""
        found = self._constant(name)
        wanted = found is not None and found.dtype in {np.dtype("u1"), np.dtype("i1")} and found.ndim > 1
        return found if wanted else None

    def _constant(self, name: str) -> NDArray[Any] | None:
        """Return a tensor that depends on no input of the network; None where it does."""
        maker = self.made_by.get(name)
        if name in self.constants or name in self.varying or maker is None:
            return self.constants.get(name)
        given = {value: self._constant(value) for value in maker.input if value}
        if not given or any(value is None for value in given.values()):
            return None
        evaluator = ReferenceEvaluator(maker, opsets=self.opsets)
        self.constants |= dict(zip(maker.output, evaluator.run(None, given), strict=False))
        return self.constants[name]


def _attributes(node: NodeProto) -> dict[str, Any]:
    found = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Constant" and "value" in found:
        found["value"] = numpy_helper.to_array(found["value"])
    elif node.op_type == "Constant":
        found["value"] = next(iter(found.values()))
    return found


def _window(
    attributes: dict[str, Any], spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and the padding in front, along each spatial dimension."""
    ones = [1] * len(kernel)
    strides, dilations = list(attributes.get("strides", ones)), list(attributes.get("dilations", ones))
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode not in {"SAME_UPPER", "SAME_LOWER"}:
        begins = list(attributes.get("pads", [0] * 2 * len(kernel)))[: len(kernel)]
        return strides, dilations, begins if mode == "NOTSET" else [0] * len(kernel)
    begins = []
    for size, length, stride, dilation in zip(kernel, spatial, strides, dilations, strict=True):
        total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return strides, dilations, begins
