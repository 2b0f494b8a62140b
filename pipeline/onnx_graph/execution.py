"""Run an ONNX graph on samples: final outputs, or any tensor on the way, by name.

It runs on one thread, and by default nothing is optimised, so that it does exactly what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from pipeline.core.errors import InputError, first_line
from pipeline.onnx_graph.file import onnx_specs, read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Values = dict[str, NDArray[np.float32]]


def onnx_outputs(
    file: Path, samples_NCHW: NDArray[np.float32], *, optimised: bool = False
) -> tuple[NDArray[np.float32], ...]:
    """Return the outputs of an ONNX file, each [N, ...], in calls of the batch size that the file has.

    Unoptimised, a quantized file is emulated in float32; `optimised`, it runs on the integer kernels of this CPU.
    """
    model = read_onnx(file)
    session = onnx_session(model, str(file), optimised=optimised)
    name = session.get_inputs()[0].name
    label = str(file)
    return in_batches(samples_NCHW, onnx_batch(model), lambda images: run_onnx(session, None, {name: images}, label))


def onnx_tensors(file: Path, batch_NCHW: NDArray[np.float32], names: Iterable[str]) -> Values:
    """Return the float tensors with these names, in the order of the file, from one unoptimised call."""
    model = read_onnx(file)
    feeds = [{onnx_specs(model)[0][0].name: batch_NCHW}]
    (found,) = onnx_traces(model, feeds, names, label=str(file))
    return {name: value for name, value in found.items() if value.dtype == np.float32}


def onnx_traces(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]], names: Iterable[str], *, label: str
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the tensors with these names that nodes make, in the order of the file, unoptimised, for each call.

    Each of `feeds` has the inputs of one call by name. The model gains outputs. Raises InputError, naming `label`, when
    onnxruntime refuses the model.
    """
    wanted = frozenset(names)
    declared = {value.name for value in model.graph.output}
    made = [value for node in model.graph.node for value in node.output if value in wanted]
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in made if value not in declared)
    session = onnx_session(model, label)
    for inputs in feeds:
        yield dict(zip(made, run_onnx(session, made, inputs, label), strict=True)) if made else {}


def onnx_session(model: onnx.ModelProto, label: str, *, optimised: bool = False) -> onnxruntime.InferenceSession:
    """Open a model on one thread. Raises InputError, naming `label`, when onnxruntime refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exception classes are private
        raise InputError(f"{label} cannot be opened by onnxruntime: {first_line(error)}") from error


def run_onnx(
    session: onnxruntime.InferenceSession, names: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]], label: str
) -> list[NDArray[Any]]:
    """Run a session once. Raises InputError, naming `label`, when a file asks for what cannot be computed."""
    try:
        found: list[NDArray[Any]] = session.run(names, dict(feeds))
    except Exception as error:  # onnxruntime's exception classes are private
        raise InputError(f"{label} cannot be run by onnxruntime: {first_line(error)}") from error
    return found


def onnx_batch(model: onnx.ModelProto) -> int:
    """Return the batch size of the first input; -1 when it is dynamic."""
    weights = {tensor.name for tensor in model.graph.initializer}
    images = next(value for value in model.graph.input if value.name not in weights)
    first = images.type.tensor_type.shape.dim[0]
    return first.dim_value if first.HasField("dim_value") else -1


def batch_slices(samples_NCHW: NDArray[Any], batch: int) -> Iterator[NDArray[Any]]:
    """Yield the samples in groups of exactly `batch`, the last filled up from the start; all at once for -1."""
    batch = batch if batch > 0 else len(samples_NCHW)
    for start in range(0, len(samples_NCHW), batch):
        yield np.take(samples_NCHW, range(start, start + batch), axis=0, mode="wrap")


def in_batches(
    samples_NCHW: NDArray[np.float32],
    batch: int,
    call: Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], ...]:
    """Return all outputs, each [N, ...], of a function that takes groups of exactly `batch` images."""
    parts = [call(images) for images in batch_slices(samples_NCHW, batch)]
    return tuple(np.concatenate(part)[: len(samples_NCHW)] for part in zip(*parts, strict=True))
