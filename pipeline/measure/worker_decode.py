"""What a call costs with its outputs decoded: a session on real samples that runs the task's numpy half after it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime
    from pipeline.measure.runtimes import InputPort, Session


class DecodingSession:
    """A session whose every call also decodes the outputs of each sample. `samples` are its inputs, in order."""

    def __init__(self, session: Session, kit: Any, outputs: Sequence[str], samples: list[Any]) -> None:  # noqa: ANN401
        self._session, self._kit, self._outputs = session, kit, tuple(outputs)
        self.samples = samples
        self.name: Runtime = session.name
        self.version, self.options = session.version, session.options
        self.inputs: tuple[InputPort, ...] = session.inputs

    def run(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Infer once, decode what comes out for each of the batch, and return the outputs."""
        outputs = self._session.run(*inputs)
        try:
            for place in range(len(inputs[0])):
                self._kit.decode({name: each[place] for name, each in zip(self._outputs, outputs, strict=True)})
        except Exception as error:
            raise InputError(f"the task's decode(outputs) failed: {type(error).__name__}: {error}") from error
        return outputs


def decoding_session(session: Session, decoding: Mapping[str, Any], resized: Mapping[str, Any]) -> DecodingSession:
    """Return a session that decodes, as a request describes it: code, its folder, names of outputs, stored samples.

    Samples of the inputs in `resized` are cut or repeated to the size at which the file is timed.

    Raises:
        InputError: the code cannot be loaded, or the file takes other inputs than there are samples of.
    """
    import numpy as np  # noqa: PLC0415 - a device without numpy can still say hello

    stored = decoding["samples"]
    missing = [port.name for port in session.inputs if port.name not in stored]
    if missing:
        raise InputError(f"the file takes {', '.join(missing)}; the task's samples have {', '.join(stored)}")
    samples = [np.load(stored[port.name]).astype(port.dtype) for port in session.inputs]
    for place, port in enumerate(session.inputs):
        axes = range(1, len(port.shape)) if port.name in resized else ()
        for axis in axes:
            samples[place] = np.take(samples[place], range(port.shape[axis]), axis=axis, mode="wrap")
    for port, values in zip(session.inputs, samples, strict=True):
        if values.shape != tuple(port.shape):
            raise InputError(
                f"the input {port.name} is {list(port.shape)}, the task's samples are {list(values.shape)}"
            )
    return DecodingSession(session, _load(decoding["folder"], decoding["code"]), decoding["outputs"], samples)


def _load(folder: str, code: Mapping[str, Any]) -> Any:  # noqa: ANN401 - kits share no class
    """Return the task's kit: a kind's class with its settings, or what the user's file returns."""
    try:
        if "file" in code:
            return _of_file(Path(folder), code["file"]).task(**code["arguments"])
        package = sys.modules["timed_task"] = ModuleType("timed_task")
        package.__path__ = [folder]
        kind = getattr(importlib.import_module(f"timed_task.{code['module']}"), code["class"])
        return kind(**code["settings"])
    except Exception as error:
        name = code.get("file") or code.get("module")
        raise InputError(f"the task's code {name} cannot be loaded: {type(error).__name__}: {error}") from error


def _of_file(folder: Path, name: str) -> ModuleType:
    """Import a user's file; modules beside it are imported by their own names."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("timed_task_file", folder / name)
    if spec is None or spec.loader is None:
        raise InputError(f"{name} is not a Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
