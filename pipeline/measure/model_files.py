"""The files that an exported network consists of, and their content as hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.artifact import file_digest
from pipeline.core.entry import ARTIFACT_FILE
from pipeline.core.errors import InputError
from pipeline.core.paths import kind_of
from pipeline.core.runtimes import FORMS, RUNTIMES, form_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from pipeline.core.stage import Runtime


@dataclass(frozen=True)
class ModelFiles:
    """Files by name, the first of them the one that a runtime is given; all lie in one folder."""

    files: Mapping[str, Path]

    @property
    def main(self) -> str:
        """The name of the file that a runtime is given."""
        return next(iter(self.files))

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The sha256 of each file by its name."""
        return {name: file_digest(path) for name, path in self.files.items()}

    @property
    def digest(self) -> str:
        """The sha256 of a single file; of several that over their hashes, in order."""
        found = list(self.sha256.values())
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(path.stat().st_size for path in self.files.values())


def model_files(source: Path, runtime: Runtime) -> ModelFiles:
    """Return the files of a network: an .xml with its .bin, an .onnx with its external data, a torch artifact's.

    Raises:
        InputError: a file does not exist, is no file that the runtime reads, or its external data lie elsewhere.
    """
    form = form_of(source)
    readers = [name for name, facts in RUNTIMES.items() if form in facts.reads]
    if form and runtime not in readers:
        raise InputError(f"{source}: {runtime} does not read it, allowed: {', '.join(readers)}")
    if runtime == "torch":
        names, folder = FORMS["torch"].files, source
    else:
        folder = source.parent
        names = (source.name, *_companions(source))
    files = {name: folder / name for name in names}
    for path in files.values():
        kind = kind_of(path)
        if kind != "a file":
            raise InputError(f"{path} {f'is {kind}' if kind else 'does not exist'}; expected {_expected(runtime)}")
    if form is None and runtime != "torch" and not _onnx_model(source):
        raise InputError(f"{source} is not a network; expected {_expected(runtime)}")
    return ModelFiles(files)


def accepted_files(source: Path, runtime: Runtime) -> ModelFiles:
    """Return the files of a network that are kept of it: of a torch network also what says which inputs it takes."""
    found = model_files(source, runtime)
    return ModelFiles({**found.files, ARTIFACT_FILE: source / ARTIFACT_FILE}) if runtime == "torch" else found


def _expected(runtime: Runtime) -> str:
    return RUNTIMES[runtime].files


def _companions(source: Path) -> tuple[str, ...]:
    """Return the names of the files that belong to the one that is given."""
    if source.suffix == ".xml":
        return (source.with_suffix(".bin").name,)
    return _external_data(source) if source.suffix == ".onnx" and source.is_file() else ()


def _external_data(source: Path) -> tuple[str, ...]:
    """Return the files that an ONNX file keeps weights in; none where it cannot be read: the runtime says why."""
    model = _onnx_model(source)
    if model is None:
        return ()
    found: dict[str, None] = {}
    for tensor in model.graph.initializer:
        found |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    for name in found:
        if Path(name).name != name:
            raise InputError(f"{source}: its weights are in {name}; expected them in a file next to it")
    return tuple(found)


def _onnx_model(source: Path) -> ModelProto | None:
    """Return an ONNX file without its external data, whatever its name; None where it is no ONNX file."""
    import onnx  # noqa: PLC0415 - only a file that is measured is looked into
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with onnx

    try:
        return onnx.load(source, format="protobuf", load_external_data=False)
    except DecodeError:
        return None
