"""Static int8 quantization of an ONNX graph with NNCF: OpenVINO's placement, ranges and bias correction.

NNCF places pairs so that OpenVINO can fuse them: none between a convolution and the SiLU or hard-swish behind it, none
in the gate of a squeeze-and-excitation block. Its fast bias correction moves biases by the mean error that quantized
weights make, estimated for each layer on constant images with the channel means of its input. Networks with attention
are smoothed (SmoothQuant, Xiao et al. 2023).

Differs from NNCF's defaults:
- ranges are those of all images together, since the mean of each image's range clips every image above average;
- the bias correction is kept only if it brings the outputs on the calibration images nearer to those of the float
  graph: images with dark borders break its estimate, and ResNet-20 on Fashion-MNIST lost 9 dB by it. Where weights are
  smaller than its floor of scales, it makes up for their loss, which `tiny_scales.py` undoes;
- what onnxruntime needs for its integer kernels is added (`completion.py`). OpenVINO would do without the pair between
  a convolution and a SiLU.
Limits: its exact bias correction builds graphs that onnxruntime cannot load when a shortcut has a convolution (3.4.0).
Networks whose last product reads a mean are not smoothed: OpenVINO (2026.4.1) computes the factor behind it wrongly.
"""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compress.quantization.biases import REDUCED
from pipeline.compress.quantization.canonical import canonical_form, stored_weights
from pipeline.compress.quantization.engines.completion import complete, require_possible, require_usable
from pipeline.compress.quantization.engines.engine import QuantizedGraph
from pipeline.compress.quantization.holding import hold_clips
from pipeline.compress.quantization.kernel_limits import beyond_kernels
from pipeline.compress.quantization.placement import (
    count_integer_nodes,
    matching_nodes,
    nodes_like,
    require_float_and_folded,
)
from pipeline.core.errors import StageError, first_line
from pipeline.core.feeds import feed_slices
from pipeline.core.quiet import quiet_libraries
from pipeline.onnx_graph.execution import in_batches, onnx_batch, onnx_session
from pipeline.onnx_graph.links import SCALE, Wiring

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizeRequest
    from pipeline.compress.quantization.names import Calibration, EngineName
    from pipeline.core.feeds import Feeds

CALIBRATIONS: frozenset[Calibration] = frozenset({"min-max", "percentile", "mse"})
#: With this in the environment NNCF sends no telemetry; it looks once, when it is imported.
_NO_TELEMETRY = "NNCF_CI"


class Nncf:
    """NNCF's post-training quantization. `percentile` is that of each image, of which the widest range counts."""

    name: EngineName = "nncf"
    package = "nncf"
    module = "nncf"

    def quantize(self, model: ModelProto, feeds: Feeds, request: QuantizeRequest) -> QuantizedGraph:
        """See `Engine`. Schemes are u8s8, u8s8-reduced and s8s8, calibrations min-max, percentile and mse."""
        require_possible(self.name, request, sorted(CALIBRATIONS))
        require_float_and_folded(model)
        matching_nodes(model, request.keep)
        given = canonical_form(model)
        reasons = {**_read_twice(given, request), **require_usable(given, feeds, request)}
        kept = nodes_like(given, request.keep) | reasons.keys()
        corrected = _quantized(given, feeds, request, kept)
        uncorrected = _with_weights_of(corrected, given)
        for each in (corrected, uncorrected):
            if request.scheme == "u8s8-reduced":
                _reduce_multipliers(each, given)
            complete(each.graph, given, feeds, request)
        targets = _outputs(given, feeds)
        errors = [_error(_outputs(each, feeds), targets) for each in (corrected, uncorrected)]
        result = corrected if errors[0] < errors[1] else uncorrected
        reasons |= beyond_kernels(result.graph, kept)
        return QuantizedGraph(hold_clips(result), *count_integer_nodes(result, kept | reasons.keys()), reasons)


def _read_twice(model: ModelProto, request: QuantizeRequest) -> dict[str, str]:
    """Return the nodes that read one value at two places, between which NNCF (3.4.0) cannot tell, and why they stay."""
    kept = nodes_like(model, request.keep)
    read = {node.name: [value for value in node.input if value] for node in model.graph.node}
    twice = (name for name, values in read.items() if len(set(values)) < len(values))
    return {name: "nncf cannot quantize a node that reads one value twice" for name in twice if name not in kept}


def _reduce_multipliers(quantized: ModelProto, given: ModelProto) -> None:
    """Store weights of depthwise convolutions with several outputs for each input in 7 bits, in place.

    NNCF leaves 8 bits to all depthwise ones, whose kernels widen before they add. Those of these do not: they saturate.
    """
    wiring, floats = Wiring(quantized.graph), stored_weights(given)
    for node in quantized.graph.node:
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        weight = floats.get(node.name) if node.op_type == "Conv" and groups > 1 else None
        maker = wiring.made_by.get(node.input[1]) if weight is not None else None
        if weight is None or maker is None or weight.shape[1] > 1 or len(weight) == groups:
            continue
        scale = wiring.numbers(maker.input[SCALE])
        dims = tuple(range(1, weight.ndim)) if scale.size > 1 else None
        wanted = np.maximum(scale, (np.abs(weight).max(axis=dims) / REDUCED).reshape(scale.shape)).astype(np.float32)
        broadcast = wanted.reshape([-1, *[1] * (weight.ndim - 1)] if scale.size > 1 else ())
        integers = np.rint(weight / broadcast).astype(np.int8)
        for place, array in ((0, integers), (SCALE, wanted)):
            wiring.store(maker.input[place], array)


def _quantized(model: ModelProto, feeds: Feeds, request: QuantizeRequest, kept: frozenset[str]) -> ModelProto:
    with quiet_libraries("(?!)", Warning):
        nncf = _nncf()
        fed = list(feed_slices(feeds, max(onnx_batch(model), 1)))
        parameters = _parameters(request, smooth="ReduceMean" not in _read_by_products(model))
        try:
            result: ModelProto = nncf.quantize(
                model,
                nncf.Dataset(fed),
                preset=nncf.QuantizationPreset.PERFORMANCE if request.symmetric else nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(fed),
                fast_bias_correction=True,
                model_type=nncf.ModelType.TRANSFORMER if "Softmax" in _read_by_products(model) else None,
                ignored_scope=nncf.IgnoredScope(names=sorted(kept)),
                advanced_parameters=parameters,
            )
        except Exception as error:
            raise StageError(f"nncf cannot quantize this graph: {first_line(error)}. Another engine may") from error
    return result


def _nncf() -> ModuleType:
    """Return the module, imported in such a way that it sends nothing."""
    before = os.environ.get(_NO_TELEMETRY)
    os.environ[_NO_TELEMETRY] = "1"
    try:
        import nncf  # noqa: PLC0415 - an extra that may be missing
    finally:
        if before is None:
            del os.environ[_NO_TELEMETRY]
    module: ModuleType = nncf
    return module


def _parameters(request: QuantizeRequest, *, smooth: bool) -> Any:  # noqa: ANN401 - nncf has no types
    from nncf.quantization import advanced_parameters as advanced  # noqa: PLC0415 - an extra that may be missing

    smoothing = (
        advanced.AdvancedSmoothQuantParameters() if smooth else advanced.AdvancedSmoothQuantParameters(matmul=-1)
    )
    return advanced.AdvancedQuantizationParameters(
        overflow_fix=advanced.OverflowFix.ENABLE if request.scheme == "u8s8-reduced" else advanced.OverflowFix.DISABLE,
        activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
        weights_quantization_params=advanced.QuantizationParameters(per_channel=request.per_channel),
        activations_range_estimator_params=_estimator(request),
        smooth_quant_alphas=smoothing,
    )


def _estimator(request: QuantizeRequest) -> Any:  # noqa: ANN401 - nncf has no types
    from nncf.quantization import range_estimator as estimator  # noqa: PLC0415 - an extra that may be missing

    if request.calibration != "percentile":
        known = estimator.RangeEstimatorParametersSet
        return known.MINMAX if request.calibration == "min-max" else known.HISTOGRAM
    low, high = (
        estimator.StatisticsCollectorParameters(
            statistics_type=estimator.StatisticsType.QUANTILE,
            aggregator_type=widest,
            quantile_outlier_prob=(100 - request.percentile) / 200,
        )
        for widest in (estimator.AggregatorType.MIN, estimator.AggregatorType.MAX)
    )
    return estimator.RangeEstimatorParameters(low, high)


def _with_weights_of(quantized: ModelProto, given: ModelProto) -> ModelProto:
    """Return the quantized graph with all stored float tensors as they were: without the bias correction."""
    before = {tensor.name: tensor for tensor in given.graph.initializer}
    copy = deepcopy(quantized)
    for tensor in copy.graph.initializer:
        if tensor.name in before:
            tensor.CopyFrom(before[tensor.name])
    return copy


def _read_by_products(model: ModelProto) -> frozenset[str]:
    """Return the operators whose outputs matrix products read."""
    made_by = {value: node.op_type for node in model.graph.node for value in node.output}
    products = [node for node in model.graph.node if node.op_type in {"Gemm", "MatMul"}]
    return frozenset(made_by[value] for node in products for value in node.input if value in made_by)


def _outputs(model: ModelProto, feeds: Feeds) -> tuple[NDArray[np.float32], ...]:
    """Return the outputs for all samples, of the graph as it says: quantized ones are emulated in float."""
    session = onnx_session(model, "the graph")
    return in_batches(feeds, max(onnx_batch(model), 1), lambda call: session.run(None, dict(call)), "the graph")


def _error(outputs: Sequence[NDArray[np.float32]], targets: Sequence[NDArray[np.float32]]) -> float:
    """Return the mean squared error; of several outputs the sum of theirs, each relative to its own mean square."""
    errors = [float(np.square(found - wanted).mean()) for found, wanted in zip(outputs, targets, strict=True)]
    if len(errors) == 1:
        return errors[0]
    powers = [max(float(np.square(wanted).mean()), float(np.finfo(np.float32).tiny)) for wanted in targets]
    return sum(error / power for error, power in zip(errors, powers, strict=True))
