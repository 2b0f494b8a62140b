"""OpenVINO on the CPU, tuned for latency; reads ONNX files and its own format.

Precision is stated as f32: by default, a processor with bfloat16 instructions computes in bfloat16, and the file would
be judged at a precision that it was not exported with. What is quantised to int8 still runs in int8. Threads are not
pinned to cores, so that the scheduler can move them away from other load, as it does with every other runtime here.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import openvino

from pipeline.core.errors import InputError
from pipeline.measure.runtimes import InputPort, RuntimeSettings, dtype_of, fixed_shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime

#: numpy's names of OpenVINO's types.
DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "i8": "int8",
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}
#: Lines of an error that tell where in OpenVINO's own source it arose, and not why.
_SOURCE_LINES = ("Exception from ", "Check '", "FrontEnd API failed")


@dataclass(frozen=True)
class OpenVinoSession:
    """A model compiled for the CPU, with its one inference request."""

    request: openvino.InferRequest
    inputs: tuple[InputPort, ...]
    options: dict[str, str]
    version: str = openvino.__version__
    name: ClassVar[Runtime] = "openvino"

    def run(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Infer once, without copying in or out, and return all outputs."""
        results = self.request.infer(list(inputs), share_inputs=True, share_outputs=True)
        return list(results.values())


def open_session(path: Path, settings: RuntimeSettings) -> OpenVinoSession:
    """Load an ONNX file or an IR file (.xml next to .bin) with the settings' threads, reshaped to the batch.

    Raises:
        InputError: OpenVINO cannot read the file, or an input has no fixed size or a type that is not known here.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(settings.threads),
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO",
    }
    core = openvino.Core()
    with _reading(path):
        model = core.read_model(path)
    inputs = _fix_shapes(path, model, settings)
    with _reading(path):
        compiled = core.compile_model(model, "CPU", options)
    return OpenVinoSession(compiled.create_infer_request(), inputs, {"device": "CPU", **options})


def _fix_shapes(path: Path, model: openvino.Model, settings: RuntimeSettings) -> tuple[InputPort, ...]:
    """Return the inputs with their shapes; what is dynamic is fixed in the model as well."""
    ports: list[InputPort] = []
    for each in model.inputs:
        partial = each.get_partial_shape()
        declared = [size.get_length() if size.is_static else None for size in partial]
        name = each.get_any_name()
        dtype = dtype_of(path, name, each.get_element_type().get_type_name(), DTYPES)
        ports.append(InputPort(name, fixed_shape(path, name, declared, settings), dtype))
    if model.is_dynamic():
        with _reading(path):
            model.reshape({port.name: list(port.shape) for port in ports})
    return tuple(ports)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn OpenVINO's refusal of a file into one message."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(f"{path}: openvino {openvino.__version__} cannot read it: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """Return the first line that says why, or else the first line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(_SOURCE_LINES)), lines[0])
