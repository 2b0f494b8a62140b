"""What the adapters of other engines share: what they are given, the images, and completing what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.quantization import pairs, qdq
from pipeline.compress.quantization.biases import store_biases
from pipeline.compress.quantization.canonical import stored_weights
from pipeline.compress.quantization.ranges import reasons_for_float, remembered_ranges
from pipeline.compress.quantization.tiny_scales import has_tiny_scales, refine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto

    from pipeline.compress.calibration import Range
    from pipeline.compress.quantization.engine import Request, Scheme

#: Type of activations in the schemes whose weights are s8.
ACTIVATIONS: dict[Scheme, type[np.uint8 | np.int8]] = {"u8s8": np.uint8, "u8s8-reduced": np.uint8, "s8s8": np.int8}


def require_usable(model: ModelProto, samples_NCHW: NDArray[np.float32], request: Request) -> dict[str, str]:
    """Check the images, on which engines rely, and return which nodes have to stay in float, and why.

    Raises InputError or StageError as `activation_ranges` does.
    """
    return reasons_for_float(model, _ranges(model, samples_NCHW, request), request.keep)


def complete(graph: GraphProto, given: ModelProto, samples_NCHW: NDArray[np.float32], request: Request) -> None:
    """Change a QDQ graph in place so that onnxruntime finds integer kernels for all that the engine quantized.

    Activations get the type of the scheme, zero points in the middle if ranges are to be symmetric, and convolutions a
    pair behind them, with a range of `given`, the float graph, by the request's calibration. See `pairs.py`.
    """
    kind = ACTIVATIONS[request.scheme]
    pairs.retype(graph, kind)
    if request.symmetric:
        pairs.centre(graph)
    if has_tiny_scales(graph):
        refine(graph, given, _ranges(given, samples_NCHW, request), request)
    _simplify(graph)
    while lacking := pairs.finish_convolutions(graph, symmetric=request.symmetric):
        ranges = _ranges(given, samples_NCHW, request)
        grids = {value: qdq.grid(ranges[value], kind, symmetric=request.symmetric) for value in lacking}
        qdq.insert_pairs(graph, grids)
        _simplify(graph)
    _simplify(graph)
    store_biases(graph, stored_weights(given))
    qdq.remove_unread(graph)


def _ranges(given: ModelProto, samples_NCHW: NDArray[np.float32], request: Request) -> dict[str, Range]:
    return remembered_ranges(given, samples_NCHW, request.calibration, request.percentile, request.keep)


def _simplify(graph: GraphProto) -> None:
    pairs.drop_clipped_twice(graph)
    pairs.follow_movers(graph)


def batches(model: ModelProto, samples_NCHW: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the images in calls of the batch size that the graph has; the last one is filled up from the start."""
    batch = max(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value, 1)
    for start in range(0, len(samples_NCHW), batch):
        yield np.take(samples_NCHW, range(start, start + batch), axis=0, mode="wrap")
