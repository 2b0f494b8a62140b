# SPDX-License-Identifier: Apache-2.0
"""A bundle's network of any inputs and outputs, run in one runtime on arrays by name."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ..infer import Rejected, RuntimeMissing, model_content, model_file, reason
from .inputs import check_input, check_names, ready_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]
    Infer = Callable[[Arrays], Sequence[NDArray[Any]]]
    Stored = tuple[Any, ...]


class TaskNetwork:
    """The network of a bundle, loaded in one runtime, by default the one that it was made for.

    `facts` are those of `task_code.load_facts`. The file's outputs are called as the task calls them, in order.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], runtime: str | None = None, threads: int = 1) -> None:
        self.runtime = runtime or facts["runtime"]
        self._batch, self._outputs = facts["batch"], facts["outputs"]
        self._inputs = ready_inputs(facts)
        file = model_file(folder, self.runtime)
        stored = model_content(file)
        shapes = {
            name: [self._batch, *(-1 if axis in each.opened else size for axis, size in enumerate(each.shape))]
            for name, each in self._inputs.items()
        }
        load = _load_onnxruntime if self.runtime == "onnxruntime" else _load_openvino
        try:
            self._infer, self.version = load(stored, threads, shapes)
        except ImportError as error:
            own = "" if self.runtime == facts["runtime"] else f"-{self.runtime}"
            line = f"pip install -r requirements{own}.txt"
            raise RuntimeMissing(f"{self.runtime} is not installed ({error}); install it: {line}") from error
        except Exception as error:
            raise Rejected(f"{file}: {self.runtime} cannot read it ({reason(error)})") from error

    def outputs(self, samples: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """Return the outputs by name for each sample, without batch axis, from its inputs by name."""
        found: list[dict[str, NDArray[Any]]] = []
        for start in range(0, len(samples), self._batch):
            part = list(samples[start : start + self._batch])
            filled = part + part[-1:] * (self._batch - len(part))
            for name in self._inputs:
                if len({each[name].shape for each in filled}) > 1:
                    raise Rejected(f"the samples of a batch differ in the size of {name}: give one size at a time")
            feeds = {name: np.stack([each[name] for each in filled]) for name in self._inputs}
            computed = self._infer(feeds)
            if len(computed) != len(self._outputs):
                raise Rejected(f"the network has {len(computed)} outputs, expected {', '.join(self._outputs)}")
            found += [
                {name: np.array(values[place]) for name, values in zip(self._outputs, computed)}
                for place in range(len(part))
            ]
        return found

    def check_inputs(self, given: Arrays, where: str) -> None:
        """Raise Rejected, which starts with `where`, for inputs of one sample that the network does not take."""
        try:
            check_names(given, self._inputs)
            for name, wanted in self._inputs.items():
                check_input(name, given[name], wanted)
        except Rejected as error:
            raise Rejected(f"{where}: {error}") from error


def _load_onnxruntime(stored: Stored, threads: int, shapes: Mapping[str, list[int]]) -> tuple[Infer, str]:  # noqa: ARG001
    """Load an ONNX file as it was timed: its threads sleep while they wait."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(stored[0], options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, dict(feeds)), onnxruntime.__version__


def _load_openvino(stored: Stored, threads: int, shapes: Mapping[str, list[int]]) -> tuple[Infer, str]:
    """Load an IR or ONNX file as it was timed: in single precision where it is not quantized, on any core."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO then sends no usage data
    import openvino

    if sys.modules["openvino_telemetry"] is None:
        del sys.modules["openvino_telemetry"]

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO",
    }
    core = openvino.Core()
    model = core.read_model(*stored)
    if model.is_dynamic():
        model.reshape(dict(shapes))
    compiled = core.compile_model(model, "CPU", options)
    return lambda feeds: list(compiled(dict(feeds)).values()), openvino.__version__.partition("-")[0]
