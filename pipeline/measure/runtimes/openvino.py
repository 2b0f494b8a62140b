"""OpenVINO on the CPU, tuned for latency; reads ONNX files and its own format.

Precision is stated as f32: by default, a processor with bfloat16 instructions computes in bfloat16, and the file would
be judged at a precision that it was not exported with. What is quantised to int8 still runs in int8. Threads are not
pinned to cores, so that the scheduler can move them away from other load, as it does with every other runtime here.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import openvino

from pipeline.core.errors import InputError
from pipeline.measure.runtimes import fixed_shape, require_image_input

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime

#: Lines of an error that tell where in OpenVINO's own source it arose, and not why.
SOURCE_LINES = ("Exception from ", "Check '", "FrontEnd API failed")


@dataclass(frozen=True)
class OpenVinoSession:
    """A model compiled for the CPU, with its one inference request."""

    request: openvino.InferRequest
    input_shape: tuple[int, ...]
    options: dict[str, str]
    version: str = openvino.__version__
    name: ClassVar[Runtime] = "openvino"

    def run(self, inputs_NCHW: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Infer once, without copying in or out, and return all outputs."""
        results = self.request.infer([inputs_NCHW], share_inputs=True, share_outputs=True)
        return list(results.values())


def open_session(path: Path, threads: int, batch: int) -> OpenVinoSession:
    """Load an ONNX file or an IR file (.xml beside .bin) with `threads` threads, reshaped to the batch.

    Raises:
        InputError: OpenVINO cannot read the file, or its input is not one float32 tensor of a fixed size.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO",
    }
    core = openvino.Core()
    with _reading(path):
        model = core.read_model(path)
    shape = _fix_batch(path, model, batch)
    with _reading(path):
        compiled = core.compile_model(model, "CPU", options)
    return OpenVinoSession(compiled.create_infer_request(), shape, {"device": "CPU", **options})


def _fix_batch(path: Path, model: openvino.Model, batch: int) -> tuple[int, ...]:
    """Return the input's shape at `batch`; a dynamic batch is replaced by it in the model."""
    require_image_input(path, [each.get_element_type().get_type_name() for each in model.inputs], "f32")
    partial = model.inputs[0].get_partial_shape()
    shape = fixed_shape(path, [each.get_length() if each.is_static else None for each in partial], batch)
    if partial.is_dynamic:
        with _reading(path):
            model.reshape(list(shape))
    return shape


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
    return next((line for line in lines if not line.startswith(SOURCE_LINES)), lines[0])
