"""Run a torch network or an OpenVINO file on samples, as `onnx_graph.execution` runs an ONNX file: on one thread.

OpenVINO computes in float32 what is not quantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino

from pipeline.core.errors import InputError, first_line
from pipeline.core.feeds import require_inputs, sample_count
from pipeline.export.openvino import openvino_specs, read_openvino
from pipeline.onnx_graph.execution import in_batches, require_batch_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from pipeline.core.feeds import Feeds

    Values = dict[str, NDArray[np.float32]]

OPENVINO_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def torch_outputs(model: nn.Module, feeds: Feeds) -> tuple[NDArray[Any], ...]:
    """Return the outputs of a torch network, each [N, ...], whatever container they are in.

    Raises InputError for an output that has no batch axis.
    """
    import torch  # noqa: PLC0415 - whoever runs only files does not load it
    from torch.utils._pytree import tree_leaves  # noqa: PLC0415

    given = [torch.from_numpy(values.copy()) for values in feeds.values()]  # a forward may write into its inputs
    with torch.no_grad():
        leaves = tree_leaves(model(*given))
    outputs = tuple(leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor))
    require_batch_axis(outputs, sample_count(feeds), f"the network {type(model).__name__}")
    return outputs


def openvino_outputs(file: Path, feeds: Feeds) -> tuple[NDArray[Any], ...]:
    """Return the outputs of an IR, each [N, ...], in calls of the batch size that the file has.

    Raises InputError where it cannot be read or run, takes other inputs, or has an output without a batch axis.
    """
    model, label = read_openvino(file), str(file)
    inputs = openvino_specs(model)[0]
    require_inputs(feeds, [spec.name for spec in inputs], label)
    compiled = _compiled(model, label)
    batch = inputs[0].shape[0]
    return in_batches(feeds, batch, lambda call: [each.copy() for each in compiled(dict(call)).values()], label)


def openvino_tensors(file: Path, batch: Feeds, names: Iterable[str]) -> Values:
    """Return the float tensors with these ONNX names that the IR still has, from one call."""
    (found,) = openvino_traces(read_openvino(file), [batch], names)
    return found


def openvino_traces(
    model: openvino.Model, feeds: Iterable[Mapping[str, NDArray[Any]]], names: Iterable[str]
) -> Iterator[Values]:
    """Yield the float tensors with these ONNX names that the IR still has, for each call.

    Each of `feeds` has the inputs of one call by name. The model gains outputs. What is quantized runs on integers.
    """
    wanted = frozenset(names)
    ports = {
        name: port
        for operation in model.get_ordered_ops()
        for port in operation.outputs()
        for name in sorted(port.names & wanted)
        if port.element_type == openvino.Type.f32
    }
    declared = {name for port in model.outputs for name in port.names}
    model.add_outputs([port for name, port in ports.items() if name not in declared])
    compiled = _compiled(model, model.get_friendly_name())
    for inputs in feeds:
        result = compiled(dict(inputs))
        yield {name: result[name].copy() for name in ports}


def _compiled(model: openvino.Model, label: str) -> Callable[[Any], Any]:
    """Return what runs a model in OpenVINO. Raises InputError, naming `label`, when it refuses it, also later."""
    try:
        compiled = openvino.Core().compile_model(model, "CPU", OPENVINO_SETTINGS)
    except RuntimeError as error:
        raise InputError(f"{label} cannot be opened by OpenVINO: {first_line(error)}") from error

    def run(inputs: Any) -> Any:  # noqa: ANN401 - OpenVINO's own
        try:
            return compiled(inputs)
        except RuntimeError as error:
            raise InputError(f"{label} cannot be run by OpenVINO: {first_line(error)}") from error

    return run
