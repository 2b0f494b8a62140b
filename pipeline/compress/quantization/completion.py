"""What the adapters of other engines share: what they are given, the images, and completing what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from pipeline.compress.quantization import pairs, qdq
from pipeline.compress.quantization.onnxruntime import activation_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto

    from pipeline.compress.quantization.engine import Request, Scheme

#: Type of activations in the schemes whose weights are s8.
ACTIVATIONS: dict[Scheme, type[np.uint8 | np.int8]] = {"u8s8": np.uint8, "u8s8-reduced": np.uint8, "s8s8": np.int8}


def plain(model: ModelProto) -> ModelProto:
    """Return a copy in which every node has a name, constants are stored tensors and no Identity stands in between."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = {value.name for value in copy.graph.output}
    handed_on: dict[str, str] = {}
    for node in list(copy.graph.node):
        node.name = node.name or node.output[0]
        node.input[:] = [handed_on.get(value, value) for value in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            handed_on[node.output[0]] = node.input[0]
            copy.graph.node.remove(node)
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            copy.graph.initializer.add().CopyFrom(node.attribute[0].t)
            copy.graph.initializer[-1].name = node.output[0]
            copy.graph.node.remove(node)
    return copy


def require_usable(model: ModelProto, samples_NCHW: NDArray[np.float32]) -> None:
    """Check the images, on which engines rely. Raises InputError or StageError as `activation_ranges` does."""
    activation_ranges(model, samples_NCHW, calibration="min-max")


def complete(graph: GraphProto, given: ModelProto, samples_NCHW: NDArray[np.float32], request: Request) -> None:
    """Change a QDQ graph in place so that onnxruntime finds integer kernels for all that the engine quantized.

    Activations get the type of the scheme, zero points in the middle if ranges are to be symmetric, and convolutions a
    pair behind them, with a range of `given`, the float graph, by the request's calibration. See `pairs.py`.
    """
    kind = ACTIVATIONS[request.scheme]
    pairs.retype(graph, kind)
    if request.symmetric:
        pairs.centre(graph)
    _simplify(graph)
    while lacking := pairs.finish_convolutions(graph, symmetric=request.symmetric):
        ranges = activation_ranges(given, samples_NCHW, calibration=request.calibration, percentile=request.percentile)
        grids = {value: qdq.grid(ranges[value], kind, symmetric=request.symmetric) for value in lacking}
        qdq.insert_pairs(graph, grids)
        _simplify(graph)
    _simplify(graph)
    pairs.store_biases(graph)
    qdq.remove_unread(graph)


def _simplify(graph: GraphProto) -> None:
    pairs.drop_clipped_twice(graph)
    pairs.follow_movers(graph)


def batches(model: ModelProto, samples_NCHW: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the images in calls of the batch size that the graph has; the last one is filled up from the start."""
    batch = max(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value, 1)
    for start in range(0, len(samples_NCHW), batch):
        yield np.take(samples_NCHW, range(start, start + batch), axis=0, mode="wrap")
