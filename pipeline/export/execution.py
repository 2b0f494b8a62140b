"""Run a torch network or an OpenVINO file on samples, as `onnx_graph.execution` runs an ONNX file: on one thread.

OpenVINO computes in float32 what is not quantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino

from pipeline.core.errors import InputError, first_line
from pipeline.export.openvino import openvino_specs, read_openvino
from pipeline.onnx_graph.execution import in_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    Values = dict[str, NDArray[np.float32]]

OPENVINO_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def torch_outputs(model: nn.Module, samples_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return the outputs of a torch network, each [N, ...]."""
    import torch  # noqa: PLC0415 - whoever runs only files does not load it

    with torch.no_grad():
        outputs = model(torch.from_numpy(samples_NCHW.copy()))  # a forward may write into its input
    return tuple(tensor.numpy() for tensor in (outputs if isinstance(outputs, (tuple, list)) else (outputs,)))


def openvino_outputs(file: Path, samples_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return the outputs of an IR, each [N, ...], in calls of the batch size that the file has."""
    model = read_openvino(file)
    compiled = _compiled(model, str(file))
    batch = openvino_specs(model)[0][0].shape[0]
    return in_batches(samples_NCHW, batch, lambda images: [each.copy() for each in compiled(images).values()])


def openvino_tensors(file: Path, batch_NCHW: NDArray[np.float32], names: Iterable[str]) -> Values:
    """Return the float tensors with these ONNX names that the IR still has, from one call."""
    model = read_openvino(file)
    (found,) = openvino_traces(model, [{model.inputs[0].any_name: batch_NCHW}], names)
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
