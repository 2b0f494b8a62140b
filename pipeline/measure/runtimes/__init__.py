"""One file per inference runtime. A runtime turns a file into a `Session` that infers on the CPU.

To add one: its file with `open_session(path, settings) -> Session`, its row in `pipeline.core.runtimes`, and its line
in `pipeline.measure.worker_file`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.core.errors import InputError
from pipeline.core.runtimes import RUNTIMES, load_reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime


@dataclass(frozen=True)
class InputPort:
    """One input of a network: its name, the shape that it is run at, and its numpy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class RuntimeSettings:
    """How a file is run. `shapes` gives sizes to inputs by name, where the file leaves more open than the batch.

    `open_shapes` are those of samples: of them the sizes count that the file leaves open, the batch aside.
    """

    threads: int
    batch: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    open_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


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
    def inputs(self) -> tuple[InputPort, ...]:
        """The inputs, with all sizes filled in."""

    def run(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Infer once. The outputs are valid until the next call: copy what is to be kept."""


def open_session(
    runtime: Runtime,
    path: Path,
    *,
    threads: int,
    batch: int,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    open_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Session:
    """Load a file in the runtime of that name. Only that runtime is imported.

    Raises:
        InputError: the file does not exist or cannot be read, or the runtime reads no files.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a file that {runtime} reads")
    settings = RuntimeSettings(threads, batch, shapes or {}, open_shapes or {})
    facts = RUNTIMES.get(runtime)
    if facts is None or not facts.adapter:
        raise InputError(f"{path}: {runtime} reads no files here; export the network, or give the network itself")
    session: Session = load_reference(facts.adapter).open_session(path, settings)
    return session


def fixed_shape(
    path: Path, name: str, declared: Sequence[int | str | None], settings: RuntimeSettings
) -> tuple[int, ...]:
    """Return the shape to run an input at: `declared`, with a dynamic first dimension replaced by the batch.

    A dynamic dimension is a name, None, or negative. A shape in the settings replaces all that is dynamic.

    Raises:
        InputError: the file is fixed to another batch or shape, or a dimension is dynamic and was not given.
    """
    sizes = [size if isinstance(size, int) and size >= 0 else None for size in declared]
    if name in settings.shapes:
        given = settings.shapes[name]
        if len(given) != len(sizes) or any(a not in {None, b} for a, b in zip(sizes, given, strict=False)):
            raise InputError(f"{path}: input {name} has shape {list(declared)}, asked for {list(given)}")
        return given
    samples = settings.open_shapes.get(name, ())
    if len(samples) == len(sizes):
        sizes[1:] = [own if size is None else size for size, own in zip(sizes[1:], samples[1:], strict=True)]
    if any(size is None for size in sizes[1:]):
        raise InputError(
            f"{path}: input {name} of shape {list(declared)} has open sizes beyond the batch; export it with fixed "
            f"sizes, or give them: --shape {name}={','.join(str(size or 1) for size in sizes)}"
        )
    if sizes and sizes[0] not in {None, settings.batch}:
        raise InputError(
            f"{path}: has a fixed batch of {sizes[0]}, asked for {settings.batch}; export it with that batch"
        )
    return (settings.batch, *(size for size in sizes[1:] if size is not None)) if sizes else ()


def dtype_of(path: Path, name: str, written: str, known: Mapping[str, str]) -> str:
    """Return the numpy dtype for a runtime's own name of a type.

    Raises:
        InputError: inputs of that type cannot be made here.
    """
    if written not in known:
        raise InputError(f"{path}: input {name} is of type {written}, allowed: {', '.join(known)}")
    return known[written]
