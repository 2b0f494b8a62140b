"""Biases of integer products in 32 bits, on scales of the weights on which they fit.

A kernel adds the bias to its sums, so it is stored on their scale: that of the data times that of the weights. Where
those of a channel are nearly zero beside its bias (dead or heavily regularised filters), or its bias is huge, it would
take more than 32 bits. Such a channel gets a larger scale, on which its bias takes 30: each product then loses less
than 1e-7 of the bias. A channel without any weight gets the scale that suits its bias. Where one scale was asked for
all channels, those that fit keep it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from pipeline.compress.quantization.canonical import MATRIX, output_axis
from pipeline.compress.quantization.qdq import SMALLEST_SCALE, replace_nodes
from pipeline.onnx_graph.file import drop_unread
from pipeline.onnx_graph.links import SCALE, ZERO_POINT, Wiring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

    Array = NDArray[Any]

#: Place of the bias among the inputs of a product. An Add after a MatMul, which runtimes fuse with it, has it on
#: either side.
BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
WEIGHT = 1
#: Largest bias: sums of products, of which 32 bits must hold as much again, are added to it.
LARGEST_BIAS = 2**30
#: Largest number of a weight in 7 bits, which 8 have room for as well.
REDUCED = 63


@dataclass
class _Layer:
    """An integer product and its float bias: `holder` adds that, the product itself or an Add behind a MatMul.

    `place` is that of the bias among the holder's inputs.

    The weight [outputs along `axis`] comes out of `dequantize`, and the data has one scale.
    """

    product: NodeProto
    holder: NodeProto
    place: int
    bias: Array
    x_scale: float
    dequantize: NodeProto
    axis: int
    integers: Array
    scale: Array
    zero_point: Array

    def along(self, values: Array) -> Array:
        """Return one number for each output, or one for all, so that it broadcasts against the weight."""
        if values.size == 1:
            return values.reshape(())
        return values.reshape([-1 if dim == self.axis else 1 for dim in range(self.integers.ndim)])


def store_biases(graph: GraphProto, floats: Mapping[str, Array] | None = None) -> None:
    """Store the float bias of each integer product in 32 bits, in place, with scales of weights that allow it.

    Where the scales of a weight change its node reads other numbers, and one that another layer reads too is stored
    once more. `floats` are the weights before
    rounding by the name of their product; without them rounded ones are rounded again.
    """
    wiring = Wiring(graph)
    layers = {id(node): layer for node in graph.node if (layer := _layer(node, wiring)) is not None}
    readers = Counter(value for node in graph.node for value in node.input)
    before = {tensor.name for tensor in graph.initializer}
    ordered: list[NodeProto] = []
    for node in graph.node:
        layer = layers.get(id(node))
        if layer is not None:
            width = layer.integers.shape[layer.axis]
            needed = _needed_scale(layer.bias, layer.x_scale).reshape(-1, width).max(axis=0)
            weight = _before_rounding(layer, floats or {})
            scale = _roomy_scale(layer.scale, needed, _least_scale(layer, weight))
            if scale is not layer.scale:
                _round_again(layer, scale, weight)
                ordered += _stored_weight(graph, layer, readers)
            ordered.append(_stored_bias(graph, layer))
        ordered.append(node)
    replace_nodes(graph, ordered)
    drop_unread(graph, before)


def _roomy_scale(scale: Array, needed: Array, least: Array) -> Array:
    """Return scales of weights that are at least those `needed` [outputs] for biases; the same object if they are.

    `scale` is one for each output or one for all, like `least`: what they may be instead. That is less where all
    weights of a scale were rounded to zero, and a smaller one is there for their bias alone.
    """
    if scale.size == 1:
        own = np.maximum(needed.max(initial=0.0), least) if needed.any() else scale
        own = np.where(least < scale, own, scale).astype(np.float32)
        short = needed > own.reshape(())
        if short.any():
            return np.where(short, needed, own.reshape(())).astype(np.float32)
        return scale if np.array_equal(own, scale) else own
    own = np.where(needed > 0, least, scale)
    wanted = np.maximum(own, needed).astype(np.float32)
    return scale if np.array_equal(wanted, scale) else wanted


def _needed_scale(bias: Array, x_scale: float) -> Array:
    """Return the least scale of each output's weights for its bias, 0 where that is zero."""
    least = np.abs(bias.astype(np.float64)) / (LARGEST_BIAS * x_scale)
    return np.where(bias == 0, 0.0, np.maximum(least, 2 * SMALLEST_SCALE / x_scale))


def _layer(node: NodeProto, wiring: Wiring) -> _Layer | None:
    """Return the layer whose bias a node adds, if it computes with integers and the bias has one float an output."""
    place = BIAS.get(node.op_type, len(node.input))
    product: NodeProto | None = node
    if node.op_type == "Add":
        place = int(node.input[0] not in wiring.stored)
        product = wiring.made_by.get(node.input[1 - place])
    if place >= len(node.input) or node.input[place] not in wiring.stored or product is None:
        return None
    x, bias = wiring.activation_grid(product.input[0]), wiring.numbers(node.input[place])
    dequantize = wiring.weight_dequantizer(product.input[WEIGHT]) if len(product.input) > WEIGHT else None
    if (node.op_type == "Add" and product.op_type != "MatMul") or dequantize is None or _is_scaled(product):
        return None
    if x is None or x[0].size > 1 or bias.ndim != 1:
        return None
    integers, scale = wiring.numbers(dequantize.input[0]), wiring.numbers(dequantize.input[SCALE])
    given = dequantize.input[ZERO_POINT] if len(dequantize.input) > ZERO_POINT else ""
    zero_point = wiring.numbers(given) if given else np.zeros_like(scale, integers.dtype)
    axis = output_axis(product) % integers.ndim
    own_axis = next((each.i for each in dequantize.attribute if each.name == "axis"), 1) % integers.ndim
    repeated = bias.size // integers.shape[axis] if product.op_type == "ConvTranspose" else 1
    if integers.ndim < MATRIX or (scale.size > 1 and own_axis != axis) or bias.size != repeated * integers.shape[axis]:
        return None
    return _Layer(product, node, place, bias, float(x[0]), dequantize, axis, integers, scale, zero_point)


def _is_scaled(product: NodeProto) -> bool:
    return any(each.name in {"alpha", "beta"} and each.f != 1 for each in product.attribute)


def _least_scale(layer: _Layer, weight: Array) -> Array:
    """Return the scales as they are, and those that the weights need where all of a scale were rounded to zero."""
    zeros, size = layer.integers == layer.along(layer.zero_point), np.abs(weight)
    dims = None if layer.scale.size == 1 else tuple(dim for dim in range(zeros.ndim) if dim != layer.axis)
    reach = size.max(axis=dims) / np.float32(REDUCED)
    return np.where(zeros.all(axis=dims), reach, layer.scale).astype(np.float32).reshape(layer.scale.shape)


def _before_rounding(layer: _Layer, floats: Mapping[str, Array]) -> Array:
    """Return the weights in float: those given, if rounding them gives the stored ones."""
    steps = layer.integers.astype(np.float32) - layer.along(layer.zero_point).astype(np.float32)
    rounded: Array = layer.along(layer.scale) * steps
    given = floats.get(layer.product.name)
    half = 0.51 * layer.along(layer.scale)  # a little more for rounding in 32 bits
    if given is not None and given.shape == rounded.shape and bool((np.abs(given - rounded) <= half).all()):
        return given
    return rounded


def _round_again(layer: _Layer, scale: Array, floats: Array) -> None:
    """Put the weight of a layer on other scales."""
    layer.scale, layer.zero_point = scale, np.broadcast_to(layer.zero_point, scale.shape).copy()
    limits = np.iinfo(layer.integers.dtype)
    numbers = np.rint(floats.astype(np.float64) / layer.along(scale)) + layer.along(layer.zero_point)
    layer.integers = np.clip(numbers, limits.min, limits.max).astype(layer.integers.dtype)


def _stored_weight(graph: GraphProto, layer: _Layer, readers: Counter[str]) -> list[NodeProto]:
    """Store the weight of a layer; return the node that dequantizes it where another layer reads the one that does."""
    name = f"{layer.product.name or layer.product.output[0]}.own_weight"
    new = _dequantize(graph, name, (layer.integers, layer.scale, layer.zero_point), layer.axis)
    old = layer.dequantize.output[0]
    readers[old] -= 1
    if readers[old]:
        layer.product.input[WEIGHT] = new.output[0]
        return [new]
    layer.dequantize.input[:] = new.input
    del layer.dequantize.attribute[:]
    layer.dequantize.attribute.extend(new.attribute)
    return []


def _stored_bias(graph: GraphProto, layer: _Layer) -> NodeProto:
    """Store the bias of a layer as integers, let it read what they stand for, and return what dequantizes them.

    Outputs of the groups of a transposed convolution share the scales of its weights.
    """
    scale = np.asarray(layer.scale.astype(np.float64) * layer.x_scale)
    if scale.size > 1:
        scale = np.tile(scale, layer.bias.size // scale.size)
    scale = scale.astype(np.float32)
    numbers = np.rint(layer.bias / scale.astype(np.float64)).astype(np.int32)
    new = _dequantize(graph, layer.holder.input[layer.place], (numbers, scale, np.zeros(scale.shape, np.int32)), 0)
    layer.holder.input[layer.place] = new.output[0]
    return new


def _dequantize(graph: GraphProto, name: str, grid: tuple[Array, Array, Array], axis: int) -> NodeProto:
    """Store integers, scale and zero point, under another name where that is taken, and return what reads them."""
    taken = {tensor.name for tensor in graph.initializer}
    free, number = name, 1
    while f"{free}_quantized" in taken:
        number += 1
        free = f"{name}{number}"
    parts = [f"{free}_quantized", f"{free}_quantized_scale", f"{free}_quantized_zero_point"]
    graph.initializer.extend(numpy_helper.from_array(*pair) for pair in zip(grid, parts, strict=True))
    made = f"{free}_DequantizeLinear"
    return helper.make_node("DequantizeLinear", parts, [f"{made}_Output"], made, axis=axis)
