"""What the adapters of other engines share: what they are given, the images, and completing what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.quantization import pairs, qdq
from pipeline.compress.quantization.biases import store_biases
from pipeline.compress.quantization.canonical import output_axis, stored_weights
from pipeline.compress.quantization.kernel_limits import lift_dead_scales
from pipeline.compress.quantization.ranges import reasons_for_float, remembered_ranges
from pipeline.compress.quantization.tiny_scales import has_tiny_scales, refine_tiny_scales
from pipeline.core.errors import InputError
from pipeline.onnx_graph.links import Wiring

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

    from pipeline.compress.quantization.calibration import Range
    from pipeline.compress.quantization.engines.engine import QuantizeRequest
    from pipeline.compress.quantization.names import Calibration, Scheme
    from pipeline.core.feeds import Feeds

    Array = NDArray[Any]
    #: The node that multiplies the data, and its factors [inputs].
    Smoothing = tuple[NodeProto, Array]

#: Type of activations in the schemes whose weights are s8.
ACTIVATIONS: dict[Scheme, type[np.uint8 | np.int8]] = {"u8s8": np.uint8, "u8s8-reduced": np.uint8, "s8s8": np.int8}


def require_possible(engine: str, request: QuantizeRequest, calibrations: Collection[Calibration]) -> None:
    """Raise InputError unless an engine that stores weights as s8 has the scheme and the calibration that are asked."""
    if request.scheme not in ACTIVATIONS:
        possible = ", ".join(ACTIVATIONS)
        raise InputError(f"{engine} stores weights as s8: scheme is {request.scheme}, possible are {possible}")
    if request.calibration not in calibrations:
        possible = ", ".join(calibrations)
        raise InputError(f"{engine} has no calibration by {request.calibration}; possible are {possible}")


def require_usable(model: ModelProto, feeds: Feeds, request: QuantizeRequest) -> dict[str, str]:
    """Check the images, on which engines rely, and return which nodes have to stay in float, and why.

    Raises InputError or StageError as `activation_ranges` does.
    """
    return reasons_for_float(model, _ranges(model, feeds, request), request.keep)


def complete(graph: GraphProto, given: ModelProto, feeds: Feeds, request: QuantizeRequest) -> None:
    """Change a QDQ graph in place so that onnxruntime finds integer kernels for all that the engine quantized.

    Activations get the type of the scheme, zero points in the middle if ranges are to be symmetric, and convolutions a
    pair behind them, with a range of `given`, the float graph, by the request's calibration. See `pairs.py`.
    """
    kind = ACTIVATIONS[request.scheme]
    pairs.retype(graph, kind)
    if request.symmetric:
        pairs.centre(graph)
    smoothings = _smoothings(graph, given)
    weights = _smoothed(given, smoothings)
    if has_tiny_scales(graph):
        ranges = _ranges(given, feeds, request)
        refine_tiny_scales(graph, weights, {**ranges, **_smoothed_ranges(smoothings, ranges)}, request)
    _simplify(graph)
    while lacking := pairs.finish_convolutions(graph, symmetric=request.symmetric):
        ranges = _ranges(given, feeds, request)
        grids = {value: qdq.grid(ranges[value], kind, symmetric=request.symmetric) for value in lacking}
        qdq.insert_pairs(graph, grids)
        _simplify(graph)
    _simplify(graph)
    lift_dead_scales(graph)
    store_biases(graph, weights)
    qdq.remove_unread(graph)


def _smoothings(graph: GraphProto, given: ModelProto) -> dict[str, Smoothing]:
    """Return, by the name of a product, what an engine has put in front of it: SmoothQuant.

    It multiplies the data by a number for each input, and divides the weights by it.
    """
    wiring, known = Wiring(graph), {node.name for node in given.graph.node}
    found: dict[str, Smoothing] = {}
    for node in graph.node:
        maker = wiring.made_by.get(node.input[0]) if node.op_type in {"Gemm", "MatMul"} else None
        while maker is not None and maker.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            maker = wiring.made_by.get(maker.input[0])
        if maker is not None and maker.op_type == "Mul" and maker.name not in known and maker.input[1] in wiring.stored:
            found[node.name] = (maker, wiring.numbers(maker.input[1]).reshape(-1))
    return found


def _smoothed(given: ModelProto, smoothings: Mapping[str, Smoothing]) -> dict[str, Array]:
    """Return the float weights of products by their name, divided where data are multiplied."""
    weights = stored_weights(given)
    for node in given.graph.node:
        if node.name in smoothings and node.name in weights:
            factors = smoothings[node.name][1]
            weights[node.name] = weights[node.name] / (factors if output_axis(node) == 0 else factors[:, None])
    return weights


def _smoothed_ranges(smoothings: Mapping[str, Smoothing], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return ranges that hold the multiplied data."""
    pairs = [(node, float(factors.max())) for node, factors in smoothings.values() if node.input[0] in ranges]
    return {node.output[0]: (ranges[node.input[0]][0] * most, ranges[node.input[0]][1] * most) for node, most in pairs}


def _ranges(given: ModelProto, feeds: Feeds, request: QuantizeRequest) -> dict[str, Range]:
    return remembered_ranges(given, feeds, request.calibration, request.percentile, request.keep)


def _simplify(graph: GraphProto) -> None:
    pairs.drop_clipped_twice(graph)
    pairs.follow_movers(graph)
