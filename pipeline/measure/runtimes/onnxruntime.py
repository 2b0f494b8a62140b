"""ONNX Runtime on the CPU: one inference at a time, graph optimisation as by default.

Threads of ONNX Runtime do not spin while they wait: in an interleaved measurement, an idle session's spinning threads
would burn the cores that another one is being timed on. A dynamic batch stays dynamic, as in the file that ships.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from pipeline.core.errors import InputError
from pipeline.measure.runtimes import InputPort, RuntimeSettings, dtype_of, fixed_shape

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime

#: What loading a file can raise; these have no common base of their own.
_LOAD_ERRORS: tuple[type[Exception], ...] = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
)
_ERRORS_ONLY = 3
#: numpy's names of ONNX Runtime's types.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class OnnxRuntimeSession:
    """A loaded ONNX file."""

    session: onnxruntime.InferenceSession
    inputs: tuple[InputPort, ...]
    options: dict[str, str]
    version: str = onnxruntime.__version__
    name: ClassVar[Runtime] = "onnxruntime"

    def run(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Infer once and return all outputs."""
        feeds = {port.name: values for port, values in zip(self.inputs, inputs, strict=True)}
        outputs: list[NDArray[np.float32]] = self.session.run(None, feeds)
        return outputs


def open_session(path: Path, settings: RuntimeSettings) -> OnnxRuntimeSession:
    """Load an ONNX file with the settings' threads inside an operator.

    Raises:
        InputError: ONNX Runtime cannot read the file, or an input has no fixed size or a type that is not known here.
    """
    threads = settings.threads
    try:
        session = onnxruntime.InferenceSession(path, _session_options(threads), providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: onnxruntime {onnxruntime.__version__} cannot read it: {reason}") from error
    inputs = tuple(
        InputPort(
            each.name,
            fixed_shape(path, each.name, each.shape, settings),
            dtype_of(path, each.name, each.type, DTYPES),
        )
        for each in session.get_inputs()
    )
    options = {
        "provider": "CPUExecutionProvider",
        "execution_mode": "sequential",
        "intra_op_num_threads": str(threads),
        "inter_op_num_threads": "1",
        "allow_spinning": "0",
        "graph_optimization_level": "all",
    }
    return OnnxRuntimeSession(session, inputs, options)


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options
