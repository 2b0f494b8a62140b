"""Ranges of a float graph's activations on calibration images, of those that have one.

A mask holds minus infinity, so that what it covers has no weight after the softmax. No grid of 8 bits holds such a
value beside scores, so a tensor that a stored constant makes infinite has no range here, nor has one that a softmax
reads and that reaches below -10,000, which stands for the same. Nor has one beside whose constants 8 bits hold nothing
of what differs between images (`variation.py`). What reads or makes such a tensor stays in float. Infinite or undefined
values that the network computes by itself are an error.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pipeline.compress.quantization.calibration import Histograms, Limits
from pipeline.compress.quantization.placement import BIAS, PRODUCTS, left_in_float, nodes_like
from pipeline.compress.quantization.variation import Variation
from pipeline.core.errors import InputError, StageError
from pipeline.core.feeds import feed_slices, require_inputs, sample_count
from pipeline.onnx_graph.execution import onnx_batch, onnx_traces
from pipeline.onnx_graph.file import input_specs
from pipeline.onnx_graph.links import value_consumers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from pipeline.compress.quantization.calibration import Range
    from pipeline.compress.quantization.names import Calibration
    from pipeline.core.feeds import Feeds

#: Scores below this have no weight behind a softmax in any float type: they are masked.
MASKED = -1e4
#: From this ratio of values to their means on, the noise of 8 bits hides the means. Kernels take twice that.
_CANCELLED = 128.0
#: Magnitudes below this are zero to kernels, whose scales are at least the smallest normal float.
_DEAD = 256 * float(np.finfo(np.float32).tiny)
#: Ends of the range of a dead tensor.
SMALLEST = 1e-25
SOFTMAX = frozenset({"LogSoftmax", "Softmax"})
#: What every engine fuses into the product before it.
FUSED = frozenset({"Clip", "Relu"})
#: What is said of a tensor that has no range.
_NO_RANGE = "masked, not finite, or so large that 8 bits hold nothing of what differs between images"
#: What may stand between the scores and the softmax.
BETWEEN = frozenset({"Clip", "Flatten", "Max", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
#: Ranges by the content of the graph and the images, and how they were found.
_REMEMBERED: dict[tuple[Any, ...], dict[str, Range]] = {}
_MOST_REMEMBERED = 8


def remembered_ranges(
    model: ModelProto,
    feeds: Feeds,
    calibration: Calibration,
    percentile: float,
    keep: Sequence[str] = (),
) -> dict[str, Range]:
    """Return the ranges; the last few are remembered, since a search quantizes one graph again and again."""
    arrays = [np.ascontiguousarray(values) for values in feeds.values()]
    contents = (model.SerializeToString(deterministic=True), *(each.tobytes() for each in arrays))
    digests = (hashlib.sha256(each).hexdigest() for each in contents)
    kinds = ((each.shape, each.dtype) for each in arrays)
    key = (*digests, *feeds, *kinds, calibration, percentile, tuple(keep))
    if key not in _REMEMBERED:
        while len(_REMEMBERED) >= _MOST_REMEMBERED:
            del _REMEMBERED[next(iter(_REMEMBERED))]
        _REMEMBERED[key] = activation_ranges(model, feeds, calibration=calibration, percentile=percentile, keep=keep)
    return _REMEMBERED[key]


def activation_ranges(
    model: ModelProto,
    feeds: Feeds,
    *,
    calibration: Calibration,
    percentile: float,
    keep: Sequence[str] = (),
) -> dict[str, Range]:
    """Return the range of each float activation of the graph, inputs and outputs included, that has one.

    None have those that are masked, whose constants leave nothing of the rest in 8 bits, and what nodes that match
    `keep` make where that is not finite.

    Raises:
        InputError: there are no samples, or they do not have the names and shapes that the graph takes.
        StageError: an activation is not finite, and neither a stored constant nor a kept node is why.
    """
    _require_fitting(model, feeds)
    limits, variation = Limits(), Variation()
    for tensors in _activations(model, feeds):
        limits.add(tensors)
        variation.add(tensors, max(onnx_batch(model), 1))
    infinite = {name for name, bounds in limits.ranges.items() if not np.isfinite(bounds).all()}
    _require_explained(model, infinite, limits.ranges, nodes_like(model, keep))
    unusable = infinite | _masked_scores(model, limits.ranges)
    finite = {name: bounds for name, bounds in limits.ranges.items() if name not in unusable}
    found = dict(finite)
    if calibration != "min-max":
        histograms = Histograms(finite)
        for tensors in _activations(model, feeds):
            histograms.add({name: values for name, values in tensors.items() if name in finite})
        found = histograms.find(calibration, percentile)
    hidden = _unfused(model, variation.hidden(found))
    return {name: bounds for name, bounds in (found | _dead(model, finite)).items() if name not in hidden}


def _unfused(model: ModelProto, hidden: set[str]) -> set[str]:
    """Return the hidden tensors but for those that get no pair: outputs, and what a Relu or Clip alone reads.

    That is fused into the product before it, and cuts off what hides where its own output is not hidden.
    """
    read_by = value_consumers(model.graph)

    def has_pair(name: str) -> bool:
        readers = read_by.get(name, [])
        fused = len(readers) == 1 and readers[0].op_type in FUSED and readers[0].output[0] not in hidden
        return bool(readers) and not fused

    return {name for name in hidden if has_pair(name)}


def _dead(model: ModelProto, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return ranges for tensors that are zero on all samples, which any scale represents.

    Biases of products that read them are on the scale of their sums, so it must be small beside these: the range ends
    where a product gets as large as the smallest bias.
    """
    names = {name for name, bounds in ranges.items() if max(map(abs, bounds)) < _DEAD}
    stored = {tensor.name: tensor for tensor in model.graph.initializer} if names else {}
    reach = 1.0
    for node in model.graph.node:
        given = [stored[value] for value in node.input[1:] if value in stored]
        if node.op_type in PRODUCTS and node.input[0] in names and len(given) == BIAS:
            weight, bias = (np.abs(numpy_helper.to_array(tensor).astype(np.float64)) for tensor in given)
            smallest = bias[bias > 0].min(initial=np.inf)
            reach = min(reach, float(smallest / max(weight.max(initial=0.0), _DEAD)))
    return dict.fromkeys(names, (0.0, max(reach, SMALLEST)))


def reasons_for_float(model: ModelProto, ranges: Mapping[str, Range], keep: Sequence[str] = ()) -> dict[str, str]:
    """Return the nodes that cannot be quantized, apart from those that match `keep`, and why each stays in float.

    Those are what no quantizer gets right, and what reads or makes a tensor that has no range, stored or not.
    """
    kept = nodes_like(model, keep)
    found = {**_without_range(model, ranges), **left_in_float(model)}
    return {name: why for name, why in found.items() if name not in kept}


def _without_range(model: ModelProto, ranges: Mapping[str, Range]) -> dict[str, str]:
    floats = _float_values(model)
    lacking = {name for name in floats if name not in ranges} | _not_finite(model)
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool" and _is_cancelled(node, ranges):
            found[node.name] = "its means are tiny compared with its values, which no integer kernel computes"
        touched = [value for value in (*node.input, *node.output) if value in lacking]
        if touched:
            found[node.name] = f"{touched[0]} holds values that are {_NO_RANGE}"
    return found


def _is_cancelled(node: NodeProto, ranges: Mapping[str, Range]) -> bool:
    """Return whether means are so small compared with values that onnxruntime 1.31 refuses them in integers."""
    before, after = (ranges.get(name, (0.0, 0.0)) for name in (node.input[0], node.output[0]))
    return max(map(abs, before)) > _CANCELLED * max(map(abs, after))


def _require_explained(
    model: ModelProto, infinite: Collection[str], limits: Mapping[str, Range], kept: Collection[str]
) -> None:
    """Raise StageError for the first tensor that is not finite for no reason that is known."""
    known = _not_finite(model)
    for node in model.graph.node:
        explained = node.name in kept or any(value in known for value in node.input)
        for value in node.output:
            if value in infinite and not (explained and (node.name in kept or not np.isnan(limits[value]).any())):
                raise StageError(
                    f"calibration found values that are not finite, first in {value} (node {node.name}): mend the "
                    f'network there, or leave it in float: keep: ["{node.name}"]'
                )
            if value in infinite:
                known.add(value)


def _masked_scores(model: ModelProto, limits: Mapping[str, Range]) -> set[str]:
    """Return what a softmax reads, moved or bounded on its way there or not, and whose range holds masked scores."""
    read: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type in SOFTMAX or (node.op_type in BETWEEN and read.intersection(node.output)):
            read.update(node.input)
    return {name for name in read if name in limits and limits[name][0] < MASKED}


def _not_finite(model: ModelProto) -> set[str]:
    """Return the stored tensors that hold a value that is not finite."""
    return {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all()
    }


def _float_values(model: ModelProto) -> set[str]:
    """Return the inputs and the made values that are 32-bit floats, as far as shape inference tells."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _require_fitting(model: ModelProto, feeds: Feeds) -> None:
    """Raise InputError when there is nothing to calibrate on, or when it does not fit the graph's inputs."""
    specs = input_specs(model)
    require_inputs(feeds, [spec.name for spec in specs], "the float graph")
    if not sample_count(feeds):
        raise InputError("there are no calibration images")
    for spec in specs:
        values = feeds[spec.name]
        if not np.isfinite(values).all():
            raise InputError(f"the calibration images hold values that are not finite (input {spec.name})")
        wanted, given = spec.shape[1:], values.shape[1:]
        if len(wanted) != len(given) or any(size not in {-1, own} for size, own in zip(wanted, given, strict=True)):
            sizes = [size if size > 0 else None for size in wanted]
            raise InputError(
                f"the file accepts {spec.name} of shape {sizes}, the calibration images have {list(given)}"
            )


def _activations(model: ModelProto, feeds: Feeds) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield all float tensors for one batch of samples after the other; the last batch is filled up from the start."""
    made = [value for node in model.graph.node for value in node.output if value]
    batch = max(onnx_batch(model), 1)
    traces = onnx_traces(deepcopy(model), feed_slices(feeds, batch), made, label="the float graph")
    for given, values in zip(feed_slices(feeds, batch), traces, strict=True):
        yield {name: value for name, value in {**given, **values}.items() if value.dtype == np.float32}
