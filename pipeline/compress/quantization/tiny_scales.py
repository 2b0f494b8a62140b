"""Scales of tensors so small that an engine put a floor of its own in their place.

PT2E's observers let no scale be smaller than 1.2e-7, the precision of floats at one, and NNCF none than some ten times
that, so tensors and weights whose values are smaller all become zero. The scales that these need are found here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from pipeline.compress.quantization.canonical import output_axis
from pipeline.compress.quantization.placement import PRODUCTS
from pipeline.compress.quantization.qdq import SMALLEST_SCALE, grid
from pipeline.onnx_graph.links import SCALE, ZERO_POINT, Wiring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

    from pipeline.compress.quantization.calibration import Range
    from pipeline.compress.quantization.engines.engine import QuantizeRequest

#: Scales up to this may be a floor, if those that values ask for are smaller by this factor.
FLOOR, SMALLER = 1e-5, 0.7


def has_tiny_scales(graph: GraphProto) -> bool:
    """Return whether a pair has a scale that may be the floor, of an activation or of a weight."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    scales = {node.input[SCALE] for node in graph.node if node.op_type == "DequantizeLinear"}
    return any(float(numpy_helper.to_array(stored[name]).min(initial=1.0)) <= FLOOR for name in scales & stored.keys())


def refine_tiny_scales(
    graph: GraphProto, floats: Mapping[str, NDArray[np.float32]], ranges: Mapping[str, Range], request: QuantizeRequest
) -> None:
    """Give tensors on the floor the scale that their range asks for, and weights that of their values, in place.

    `floats` are the weights of products before they were rounded, `ranges` are those of the float activations.
    """
    wiring = Wiring(graph)
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in ranges:
            _refine_activation(node, ranges[node.input[0]], wiring, symmetric=request.symmetric)
    largest = 63 if request.scheme == "u8s8-reduced" else 127
    for node in graph.node:
        if node.op_type in PRODUCTS and node.name in floats:
            _refine_weight(node, floats[node.name], wiring, largest)


def _refine_activation(node: NodeProto, bounds: Range, wiring: Wiring, *, symmetric: bool) -> None:
    scale_name, point_name = node.input[SCALE], node.input[ZERO_POINT]
    scale, point = wiring.numbers(scale_name), wiring.numbers(point_name)
    if scale.size > 1 or not 0 < float(scale) <= FLOOR or bounds[0] == bounds[1] == 0:
        return
    wanted = grid(bounds, point.dtype.type, symmetric=symmetric)
    if SMALLEST_SCALE < float(wanted[0]) < SMALLER * float(scale):
        wiring.store(scale_name, wanted[0].reshape(scale.shape))
        wiring.store(point_name, wanted[1].reshape(point.shape))


def _refine_weight(node: NodeProto, floats: NDArray[np.float32], wiring: Wiring, largest: int) -> None:
    """Store a weight anew, if what is stored is the given one rounded and its scale may be the floor."""
    maker = wiring.weight_dequantizer(node.input[1])
    if maker is None:
        return
    integers, scale = wiring.numbers(maker.input[0]), wiring.numbers(maker.input[SCALE])
    axis = output_axis(node) % max(floats.ndim, 1)
    along = [-1 if dim == axis else 1 for dim in range(floats.ndim)] if scale.size > 1 else []
    broadcast = scale.reshape(along)
    if integers.shape != floats.shape or float(scale.min()) > FLOOR or integers.dtype != np.int8:
        return
    if (np.abs(floats - broadcast * integers.astype(np.float32)) > 0.51 * broadcast).any():
        return
    dims = tuple(dim for dim in range(floats.ndim) if dim != axis) if along else None
    reach = np.abs(floats.astype(np.float64)).max(axis=dims, keepdims=True) / largest
    fits = (broadcast <= FLOOR) & (reach > SMALLEST_SCALE) & (reach < SMALLER * broadcast)
    wanted = np.where(fits, reach, broadcast).astype(np.float32)
    numbers = np.clip(np.rint(floats / wanted), -128, 127).astype(np.int8)
    wiring.store(maker.input[0], numbers)
    new = np.asarray(wanted.reshape(scale.shape))
    wiring.store(maker.input[SCALE], new)
