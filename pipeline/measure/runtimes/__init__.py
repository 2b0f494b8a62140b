"""One file per inference runtime. A runtime turns a file into a `Session` that infers on the CPU.

To add one: its file with `open_session(path, threads, batch) -> Session`, a case in `open_session` below, its row in
`READS`, and its name in `pipeline.core.stage.Runtime`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.artifact import Form
    from pipeline.core.stage import Runtime

#: The forms that each runtime can load.
READS: Mapping[Runtime, frozenset[Form]] = {
    "onnxruntime": frozenset({"onnx"}),
    "openvino": frozenset({"onnx", "openvino"}),
    "torch": frozenset({"torch"}),
}


class Session(Protocol):
    """A network loaded in a runtime, ready to infer."""

    @property
    def name(self) -> Runtime:
        """The runtime's name."""

    @property
    def version(self) -> str:
        """The runtime's version."""

    @property
    def options(self) -> Mapping[str, str]:
        """Every option that was set, and what it was set to."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[N, C, H, W] of the input, the batch filled in."""

    def run(self, inputs_NCHW: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Infer once. The outputs are valid until the next call: copy what is to be kept."""


def open_session(runtime: Runtime, path: Path, *, threads: int, batch: int) -> Session:
    """Load a file in the runtime of that name. Only that runtime is imported.

    Raises:
        InputError: the file does not exist or cannot be read, or the runtime reads no files.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a file that {runtime} reads")
    match runtime:
        case "onnxruntime":
            from pipeline.measure.runtimes import onnxruntime  # noqa: PLC0415 - loads its library

            return onnxruntime.open_session(path, threads, batch)
        case "openvino":
            from pipeline.measure.runtimes import openvino  # noqa: PLC0415 - loads its library

            return openvino.open_session(path, threads, batch)
        case _:
            raise InputError(f"{path}: {runtime} reads no files here; export it, or give the network itself")


def fixed_shape(path: Path, declared: Sequence[int | str | None], batch: int) -> tuple[int, ...]:
    """Return the shape to run at: `declared`, with a dynamic first dimension replaced by `batch`.

    A dynamic dimension is a name, None, or negative.

    Raises:
        InputError: the file is fixed to another batch, or another dimension is dynamic.
    """
    sizes = [size if isinstance(size, int) and size >= 0 else None for size in declared]
    if not sizes or any(size is None for size in sizes[1:]):
        raise InputError(
            f"{path}: input shape {list(declared)} is dynamic beyond the batch; export it with a fixed size"
        )
    if sizes[0] not in {None, batch}:
        raise InputError(f"{path}: is fixed to batch {sizes[0]}, asked for {batch}; export it with that batch")
    return (batch, *(size for size in sizes[1:] if size is not None))


def require_image_input(path: Path, types: Sequence[str], float_type: str) -> None:
    """Refuse a file whose inputs are not exactly one float32 tensor.

    Raises:
        InputError: it has another number of inputs, or another type.
    """
    if list(types) != [float_type]:
        raise InputError(f"{path}: has inputs of type {list(types)}, expected exactly one of {float_type}")
