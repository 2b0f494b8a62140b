"""Static int8 quantization of an ONNX graph with onnxruntime's quantizer, in QDQ format.

Weights become 8-bit numbers with a scale for each output channel, activations get a scale and zero point from real
images, and every quantized tensor passes a QuantizeLinear / DequantizeLinear pair, which runtimes fuse into integer
kernels. Only the placement of the pairs is onnxruntime's: its own calibration drops images when its memory is bounded,
and its entropy method has one candidate, so ranges come from `pipeline.compress.quantization.calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnxruntime.quantization import CalibrationMethod, QuantType, TensorsData

from pipeline.compress.quantization.biases import store_biases
from pipeline.compress.quantization.canonical import canonical_form, stored_weights
from pipeline.compress.quantization.engines.engine import QuantizedGraph, QuantizeRequest
from pipeline.compress.quantization.engines.qdq_quantizer import OWN_BIASES, Placement, leave_outputs_in_float
from pipeline.compress.quantization.holding import hold_clips
from pipeline.compress.quantization.kernel_limits import beyond_kernels, lift_dead_scales
from pipeline.compress.quantization.placement import (
    QUANTIZABLE,
    count_integer_nodes,
    matching_nodes,
    nodes_like,
    require_float_and_folded,
)
from pipeline.compress.quantization.ranges import reasons_for_float, remembered_ranges
from pipeline.core.quiet import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from pipeline.compress.quantization.calibration import Range
    from pipeline.compress.quantization.names import EngineName, Scheme
    from pipeline.core.feeds import Feeds


@dataclass(frozen=True)
class Types:
    """Types of activations and weights; `reduced` keeps weights in 7 bits."""

    activations: QuantType
    weights: QuantType
    reduced: bool = False


TYPES: dict[Scheme, Types] = {
    "u8s8": Types(QuantType.QUInt8, QuantType.QInt8),
    "u8s8-reduced": Types(QuantType.QUInt8, QuantType.QInt8, reduced=True),
    "s8s8": Types(QuantType.QInt8, QuantType.QInt8),
    "u8u8": Types(QuantType.QUInt8, QuantType.QUInt8),
}


class OnnxRuntime:
    """onnxruntime's placement with the ranges of `pipeline.compress.quantization.calibration`."""

    name: EngineName = "onnxruntime"
    package = "onnxruntime"
    module = "onnxruntime"

    def quantize(self, model: ModelProto, feeds: Feeds, request: QuantizeRequest) -> QuantizedGraph:
        """Return the graph in QDQ int8; outputs of the network leave in float. See `Engine`.

        Raises:
            InputError: the graph is quantized already, or a pattern of `keep` matches no node.
            StageError: a batch norm follows a convolution (fold it first: it would be computed in float), or an
                activation is not finite on the samples.
        """
        require_float_and_folded(model)
        matching_nodes(model, request.keep)
        given = canonical_form(model)
        ranges = remembered_ranges(given, feeds, request.calibration, request.percentile, request.keep)
        return quantize_with_ranges(given, ranges, request)


def quantize_with_ranges(model: ModelProto, ranges: Mapping[str, Range], request: QuantizeRequest) -> QuantizedGraph:
    """Return the graph in QDQ int8 with these ranges of its float tensors; the request's calibration is not used.

    Nodes that read or make a tensor without a range stay in float.

    Raises:
        InputError, StageError: see `OnnxRuntime.quantize`.
    """
    require_float_and_folded(model)
    copy = canonical_form(model)
    reasons = reasons_for_float(copy, ranges, request.keep)
    kept = nodes_like(copy, request.keep) | reasons.keys()
    weights = stored_weights(copy)
    types = TYPES[request.scheme]
    quantizer = Placement(
        copy,
        request.per_channel,
        types.reduced,
        types.weights,
        types.activations,
        _tensors_data(ranges),
        [],
        sorted(kept),
        sorted(QUANTIZABLE),
        {"ActivationSymmetric": request.symmetric, **OWN_BIASES},
    )
    with quiet_libraries("(?!)", Warning):  # it logs a line for each norm whose weights have no axis of channels
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: ModelProto = quantizer.model.model
    lift_dead_scales(result.graph)
    store_biases(result.graph, weights)
    leave_outputs_in_float(result)
    reasons |= beyond_kernels(result.graph, kept)
    return QuantizedGraph(hold_clips(result), *count_integer_nodes(result, kept | reasons.keys()), reasons)


def _tensors_data(ranges: Mapping[str, Range]) -> TensorsData:
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)
