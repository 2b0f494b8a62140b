"""Static int8 quantization of an ONNX graph with onnxruntime's quantizer, in QDQ format.

Weights become 8-bit numbers with a scale for each output channel, activations get a scale and zero point from real
images, and every quantized tensor passes a QuantizeLinear / DequantizeLinear pair, which runtimes fuse into integer
kernels. Only the placement of the pairs is onnxruntime's: its own calibration drops images when its memory is bounded,
and its entropy method has one candidate, so ranges come from `pipeline.compress.calibration`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

from pipeline.compress.calibration import Histograms, Limits
from pipeline.compress.quantization.engine import Quantized, Request
from pipeline.compress.quantization.placement import QUANTIZABLE, count, matching_nodes, require_float_and_folded
from pipeline.core.errors import InputError, StageError
from pipeline.core.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.calibration import Range
    from pipeline.compress.quantization.engine import Calibration, EngineName, Scheme


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


#: Ranges by the content of the graph and the images, and how they were found.
_REMEMBERED: dict[tuple[Any, ...], dict[str, Range]] = {}
MOST_REMEMBERED = 8


class OnnxRuntime:
    """onnxruntime's placement with the ranges of `pipeline.compress.calibration`."""

    name: EngineName = "onnxruntime"
    package = "onnxruntime"
    module = "onnxruntime"

    def quantize(self, model: ModelProto, samples_NCHW: NDArray[np.float32], request: Request) -> Quantized:
        """See `Engine`."""
        return quantize_static(model, samples_NCHW, **vars(request))


def quantize_static(
    model: ModelProto,
    samples_NCHW: NDArray[np.float32],
    *,
    scheme: Scheme,
    per_channel: bool = True,
    symmetric: bool = False,
    calibration: Calibration = "min-max",
    percentile: float = 99.99,
    keep: Sequence[str] = (),
) -> Quantized:
    """Return the graph in QDQ int8; the given one stays as it is.

    `samples_NCHW` are calibration images as the network takes them. With `symmetric` the ranges of activations are
    centred on zero. Nodes whose name matches a pattern of `keep` (`stage1.*`) stay in float. Outputs of the network
    leave in float.

    Raises:
        InputError: the graph is quantized already, or a pattern of `keep` matches no node.
        StageError: a batch norm stands behind a convolution (fold it first: it would be computed in float), or an
            activation is not finite on the samples.
    """
    request = Request(scheme, per_channel, symmetric, calibration, percentile, tuple(keep))
    require_float_and_folded(model)
    matching_nodes(model, keep)
    ranges = _remembered_ranges(model, samples_NCHW, calibration, percentile)
    return quantize_with_ranges(model, ranges, request)


def quantize_with_ranges(model: ModelProto, ranges: Mapping[str, Range], request: Request) -> Quantized:
    """Return the graph in QDQ int8 with these ranges of its float tensors; the request's calibration is not used.

    Raises:
        InputError, StageError: see `quantize_static`.
    """
    require_float_and_folded(model)
    kept = matching_nodes(model, request.keep)
    types = TYPES[request.scheme]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy,
        request.per_channel,
        types.reduced,
        types.weights,
        types.activations,
        _tensors_data(ranges),
        [],
        sorted(kept),
        sorted(QUANTIZABLE),
        {"ActivationSymmetric": request.symmetric},
    )
    with quiet("(?!)", Warning):  # it logs a line for each norm whose weights have no axis of channels
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: ModelProto = quantizer.model.model
    _leave_outputs_in_float(result)
    return Quantized(result, *count(result, kept))


def _remembered_ranges(
    model: ModelProto, samples_NCHW: NDArray[np.float32], calibration: Calibration, percentile: float
) -> dict[str, Range]:
    """Return the ranges; the last few are remembered, since a search quantizes one graph again and again."""
    contents = (model.SerializeToString(deterministic=True), np.ascontiguousarray(samples_NCHW).tobytes())
    key = (*(hashlib.sha256(each).hexdigest() for each in contents), samples_NCHW.shape, calibration, percentile)
    if key not in _REMEMBERED:
        while len(_REMEMBERED) >= MOST_REMEMBERED:
            del _REMEMBERED[next(iter(_REMEMBERED))]
        _REMEMBERED[key] = activation_ranges(model, samples_NCHW, calibration=calibration, percentile=percentile)
    return _REMEMBERED[key]


def activation_ranges(
    model: ModelProto,
    samples_NCHW: NDArray[np.float32],
    *,
    calibration: Calibration,
    percentile: float = 99.99,
) -> dict[str, Range]:
    """Return the range of every float activation of the graph, input and outputs included.

    Raises:
        InputError: there are no samples, or they do not have the shape that the graph takes.
        StageError: an activation is not finite.
    """
    _require_fitting(model, samples_NCHW)
    limits = Limits()
    for tensors in _activations(model, samples_NCHW):
        limits.add(tensors)
    wrong = [name for name, bounds in limits.ranges.items() if not np.isfinite(bounds).all()]
    if wrong:
        message = f"calibration found values that are not finite, first in {wrong[0]}"
        raise StageError(message)
    if calibration == "min-max":
        return limits.ranges
    histograms = Histograms(limits.ranges)
    for tensors in _activations(model, samples_NCHW):
        histograms.add(tensors)
    return histograms.find(calibration, percentile)


def _require_fitting(model: ModelProto, samples_NCHW: NDArray[np.float32]) -> None:
    """Raise InputError when there is nothing to calibrate on, or when it does not fit the graph's input."""
    if not len(samples_NCHW):
        message = "there are no calibration images"
        raise InputError(message)
    if not np.isfinite(samples_NCHW).all():
        message = "the calibration images hold values that are not finite"
        raise InputError(message)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    wanted = [dim.dim_value or None for dim in dims][1:]
    given = samples_NCHW.shape[1:]
    if len(wanted) != len(given) or any(size not in {None, own} for size, own in zip(wanted, given, strict=True)):
        message = f"the file takes images of shape {wanted}, the calibration images have {list(given)}"
        raise InputError(message)


def _activations(model: ModelProto, samples_NCHW: NDArray[np.float32]) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield all float tensors for one batch of samples after the other; the last batch is filled up from the start."""
    port = model.graph.input[0]
    made = [value for node in model.graph.node for value in node.output if value]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    declared = {value.name for value in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=value) for value in made if value not in declared)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch = max(port.type.tensor_type.shape.dim[0].dim_value, 1)
    for start in range(0, len(samples_NCHW), batch):
        images = np.take(samples_NCHW, range(start, start + batch), axis=0, mode="wrap")
        values = dict(zip(made, session.run(made, {port.name: images}), strict=True))
        yield {name: value for name, value in {port.name: images, **values}.items() if value.dtype == np.float32}


def _tensors_data(ranges: Mapping[str, Range]) -> TensorsData:
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def _leave_outputs_in_float(model: ModelProto) -> None:
    """Take out the QuantizeLinear / DequantizeLinear pair between a matrix product and an output of the network.

    Eight bits would make ties of close logits, and the integer kernels of matrix products can return floats at no cost.
    """
    graph = model.graph
    made_by = {value: node for node in graph.node for value in node.output}
    readers = Counter(value for node in graph.node for value in node.input)
    for output in graph.output:
        dequantize = made_by.get(output.name)
        quantize = made_by.get(dequantize.input[0]) if dequantize and dequantize.op_type == "DequantizeLinear" else None
        maker = made_by.get(quantize.input[0]) if quantize and readers[quantize.output[0]] == 1 else None
        if maker and maker.op_type in ("Gemm", "MatMul") and readers[maker.output[0]] == 1:
            maker.output[0] = output.name
            graph.node.remove(dequantize)
            graph.node.remove(quantize)
    read = {value for node in graph.node for value in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
