"""Run an ONNX graph on samples: final outputs, or any tensor on the way, by name.

It runs on one thread, and by default nothing is optimised, so that it does exactly what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from pipeline.core.errors import InputError, first_line
from pipeline.core.feeds import feed_slices, require_inputs, sample_count
from pipeline.onnx_graph.file import input_specs, read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds

    Values = dict[str, NDArray[np.float32]]


def onnx_outputs(file: Path, feeds: Feeds, *, optimised: bool = False) -> tuple[NDArray[Any], ...]:
    """Return the outputs of an ONNX file, each [N, ...], in calls of the batch size that the file has.

    Unoptimised, a quantized file is emulated in float32; `optimised`, it runs on the integer kernels of this CPU.

    Raises:
        InputError: the file cannot be read or run, takes other inputs, or has an output without a batch axis.
    """
    model, label = read_onnx(file), str(file)
    require_inputs(feeds, [spec.name for spec in input_specs(model)], label)
    session = onnx_session(model, label, optimised=optimised)
    return in_batches(feeds, onnx_batch(model), lambda call: run_onnx(session, None, call, label), label)


def onnx_tensors(file: Path, batch: Feeds, names: Iterable[str]) -> Values:
    """Return the float tensors with these names, in the order of the file, from one unoptimised call."""
    (found,) = onnx_traces(read_onnx(file), [batch], names, label=str(file))
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


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options for so many threads inside an operator; of messages, errors alone are logged."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options


def onnx_session(model: onnx.ModelProto, label: str, *, optimised: bool = False) -> onnxruntime.InferenceSession:
    """Open a model on one thread. Raises InputError, naming `label`, when onnxruntime refuses it."""
    options = session_options(1)
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
    """Return the batch size of the first input; -1 when it is dynamic.

    Raises InputError when the model has no input, or one without a batch axis.
    """
    inputs = input_specs(model)
    if not inputs or not all(spec.shape for spec in inputs):
        found = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs) or "none"
        raise InputError(f"found the inputs: {found}; expected inputs [N, ...]")
    return inputs[0].shape[0]


def in_batches(
    feeds: Feeds, batch: int, call: Callable[[Feeds], Sequence[NDArray[Any]]], label: str
) -> tuple[NDArray[Any], ...]:
    """Return all outputs, each [N, ...], of a function that takes groups of exactly `batch` samples.

    Raises InputError, naming `label`, for an output that has no result for each sample along its first axis.
    """
    parts = []
    for given in feed_slices(feeds, batch):
        parts.append(call(given))
        require_batch_axis(parts[-1], sample_count(given), label)
    return tuple(np.concatenate(part)[: sample_count(feeds)] for part in zip(*parts, strict=True))


def require_batch_axis(outputs: Iterable[NDArray[Any]], count: int, label: str) -> None:
    """Raise InputError, naming `label`, unless each output of `count` samples is [count, ...]."""
    for place, output in enumerate(outputs):
        if output.shape[:1] != (count,):
            raise InputError(
                f"{label}: output {place} has the shape {list(output.shape)} for a batch of {count}; expected "
                f"[{count}, ...], a result for each sample along the first axis"
            )
