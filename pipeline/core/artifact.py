"""The immutable thing that travels from stage to stage: a folder of files, its digest and how it came to be."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.core.one_of import one_of
from pipeline.core.paths import kind_of
from pipeline.core.runtimes import FORMS

if TYPE_CHECKING:
    from collections.abc import Iterable

Form = Annotated[str, one_of(lambda: FORMS)]
#: The key of what a stage changed under which it stands whether it brought a gain (`results.run.Gain`).
GAIN = "gain"
#: Stages that made no file when neither rows nor entries of the store said so. There are no others: later ones say it.
ONCE_WITHOUT_FILE = frozenset({"measure", "bundle"})


class FrozenModel(BaseModel):
    """Base of every value type: immutable, unknown keys refused, and no number that is NaN or infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TensorSpec(FrozenModel):
    """Name, shape, dtype and layout of one input or output. A dimension of -1 is dynamic."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = ""


def at_batch(specs: Iterable[TensorSpec], batch: int) -> tuple[TensorSpec, ...]:
    """Return inputs or outputs with this batch as their first size."""
    return tuple(spec.model_copy(update={"shape": (batch, *spec.shape[1:])}) for spec in specs)


class StageRecord(FrozenModel):
    """What one stage did: its full configuration, the digest it started from, and what it changed."""

    kind: str
    revision: int
    config: dict[str, Any]
    parent_digest: str
    seconds: float
    changed: dict[str, Any] = Field(default={})


class Artifact(FrozenModel):
    """A network in one of three forms, in a folder of its own.

    `digest` is the sha256 of the payload files. `lineage` has one record per stage, oldest first.
    """

    form: Form
    folder: Path
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    lineage: tuple[StageRecord, ...] = ()

    @property
    def file(self) -> Path:
        """The file that a runtime loads (for torch: the folder's network.json)."""
        return self.folder / FORMS[self.form].main

    @property
    def files(self) -> tuple[Path, ...]:
        """All payload files."""
        return tuple(self.folder / name for name in FORMS[self.form].files)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits. Raises OSError where it cannot be read, or is none."""
    if kind_of(path) == "no file":
        raise OSError(errno.EINVAL, "is a pipe or a device, expected a file", str(path))
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def payload_digest(form: Form, folder: Path) -> str:
    """Return the sha256 over the names and digests of the form's payload files in `folder`."""
    total = hashlib.sha256()
    for name in FORMS[form].files:
        total.update(f"{name} {file_digest(folder / name)}\n".encode())
    return total.hexdigest()


def size_bytes(artifact: Artifact) -> int:
    """Return the size in bytes of what ships (definition.py of a torch artifact is not counted)."""
    return sum(path.stat().st_size for path in artifact.files if path.suffix != ".py")
