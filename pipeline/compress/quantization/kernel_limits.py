"""Layers whose scales are so far apart that kernels compute them wrongly, found in a QDQ graph.

Where a clip lets only a small part of a layer's values through, the range of what it makes counts: steps behind the
layer are then much finer than its sums. Kernels count these in steps of the result. onnxruntime 1.31 does so for
additions, products of two activations and means in 32 bits: from 2^31 on the largest sum becomes the smallest result,
and its global mean refuses to run. OpenVINO 2026.4 rounds the bounds of a clip to the 24 bits of a float at the size of
the sums. Such layers are to be computed in float, which loses nothing.

Weights of a channel may be small beyond all others (regularised away): where a step of the result is 2^100 of the
channel's, OpenVINO's floats overflow. Such a channel adds nothing to any result, and gets a larger scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compress.quantization.canonical import output_axis
from pipeline.compress.quantization.placement import PRODUCTS, WEIGHT
from pipeline.compress.quantization.qdq import TRANSPARENT
from pipeline.onnx_graph.links import SCALE, Wiring

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

    from pipeline.onnx_graph.links import Grid

    Array = NDArray[Any]

#: Numbers of 8 bits, less their zero point, are at most this large.
LARGEST = 255.0
#: Sums up to this many steps of the result are exact in the floats that kernels compute them in.
_FURTHEST = 2.0**24
#: Steps of the data of a global mean over those of its result; onnxruntime refuses 256 for each value of the mean.
_FURTHEST_MEAN = 128.0
#: Steps of a channel's sums under this share of a step of the result cannot change it, whatever the number of terms.
NOTHING = 2.0**-64
REASON = "one step of its result is too small compared with its sums for integer kernels"


def beyond_kernels(graph: GraphProto, kept: Collection[str]) -> dict[str, str]:
    """Return the nodes that kernels would compute wrongly in integers, but for those of `kept`, and why."""
    wiring = Wiring(graph)
    found: dict[str, str] = {}
    for node in graph.node:
        steps = min((float(scale.min()) for scale in _scales_behind(node, wiring)), default=0.0)
        limit = _FURTHEST_MEAN * LARGEST if node.op_type == "GlobalAveragePool" else _FURTHEST
        if steps > 0 and node.name not in kept and _reach(node, wiring) > limit * steps:
            found[node.name] = REASON
    return found


def _scales_behind(node: NodeProto, wiring: Wiring) -> Iterator[Array]:
    """Yield the scales on which the result of a node is quantized, after an activation function or not."""
    for reader in wiring.read_by.get(node.output[0], []) if node.output else []:
        if reader.op_type == "QuantizeLinear":
            yield wiring.numbers(reader.input[SCALE])
        elif reader.op_type in TRANSPARENT:
            yield from _scales_behind(reader, wiring)


def _reach(node: NodeProto, wiring: Wiring) -> float:
    """Return the largest sum that integers in front of a node can make, 0 where it does not compute with them."""
    grids = [wiring.grid(value) for value in node.input]
    steps = [float(each[0].max()) for each in grids[:2] if each is not None]
    if node.op_type == "Add" and len(steps) == 2:  # noqa: PLR2004 - both inputs
        return LARGEST * sum(steps)
    if node.op_type == "Mul" and len(steps) == 2:  # noqa: PLR2004 - both inputs
        return LARGEST**2 * steps[0] * steps[1]
    if node.op_type in {"AveragePool", "GlobalAveragePool"} and steps:
        return LARGEST * steps[0]
    if node.op_type in PRODUCTS and len(steps) == 2:  # noqa: PLR2004 - both inputs
        maker = wiring.weight_dequantizer(node.input[WEIGHT])
        return LARGEST * steps[0] * float(_summed(node, maker, wiring).max(initial=0.0)) if maker is not None else 0.0
    return 0.0


def _summed(node: NodeProto, maker: NodeProto, wiring: Wiring) -> Array:
    """Return the sums of a product's absolute weights, one for each output."""
    integers, (scale, zero_point) = wiring.numbers(maker.input[0]), _grid_of(maker, wiring)
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    sizes = np.abs(integers.astype(np.float64) - _along(node, zero_point, integers.ndim))
    sizes *= _along(node, scale, integers.ndim)
    if node.op_type == "ConvTranspose":  # [in, out / groups, ...]: the outputs of a group sum its inputs alone
        sizes = sizes.reshape(groups, -1, *sizes.shape[1:])
        return np.asarray(sizes.sum(axis=(1, *range(3, sizes.ndim))))
    axis = output_axis(node) % sizes.ndim
    return np.asarray(sizes.sum(axis=tuple(dim for dim in range(sizes.ndim) if dim != axis)))


def _grid_of(maker: NodeProto, wiring: Wiring) -> Grid:
    grid = wiring.grid(maker.output[0])
    assert grid is not None  # noqa: S101 - for the type checker: it is a DequantizeLinear
    return grid


def _along(node: NodeProto, numbers: Array, dims: int) -> Array:
    """Return a number for each output, or one for all, as it broadcasts against the weight."""
    axis = output_axis(node) % dims
    return numbers.reshape([-1 if dim == axis else 1 for dim in range(dims)] if numbers.size > 1 else ())


def lift_dead_scales(graph: GraphProto) -> None:
    """Give weights of channels that cannot change any quantized result a scale on which they are zero, in place.

    Biases come afterwards. Weights that several nodes read stay.
    """
    wiring = Wiring(graph)
    for node in graph.node:
        maker = wiring.weight_dequantizer(node.input[WEIGHT]) if node.op_type in PRODUCTS else None
        if maker is None:
            continue
        x = wiring.activation_grid(node.input[0])
        behind = [float(scale.min()) for scale in _scales_behind(node, wiring)]
        scale = wiring.numbers(maker.input[SCALE])
        if x is None or not behind or scale.size == 1 or not _is_alone(maker, wiring):
            continue
        least = np.float32(NOTHING * min(behind) / float(x[0].max()))
        if 0 < least < np.inf and (scale < least).any():
            _lift(node, maker, np.maximum(scale, least), wiring)


def _is_alone(maker: NodeProto, wiring: Wiring) -> bool:
    names = (maker.output[0], maker.input[0], maker.input[SCALE])
    return all(len(wiring.read_by.get(name, [])) == 1 for name in names)


def _lift(node: NodeProto, maker: NodeProto, scale: Array, wiring: Wiring) -> None:
    integers, (old, zero_point) = wiring.numbers(maker.input[0]), _grid_of(maker, wiring)
    offset = _along(node, zero_point.astype(np.float64), integers.ndim)
    ratio = _along(node, old.astype(np.float64) / scale, integers.ndim)
    numbers = np.rint((integers - offset) * ratio) + offset
    for name, array in ((maker.input[0], numbers.astype(integers.dtype)), (maker.input[SCALE], scale)):
        wiring.store(name, array)
