"""Where a command takes an exported file it takes an edge bundle too, a folder or an archive of one.

A bundle stands for its model file, once its structure and all its checksums were found right by this program's own
checks. An archive is unpacked into a temporary folder, which is removed at the end.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle.check import opened
from pipeline.bundle.on_device.verify import MANIFEST, PACKED, Rejected, Verification, check_files
from pipeline.bundle.packing import unpack_network
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.core.stage import Runtime

SUFFIXES = (".tar.gz", ".tgz")
#: Name of the folder that a run writes its bundle into: it says less than the folder around it.
_USUAL = "bundle"


def is_bundle(source: Path) -> bool:
    """Return whether a path looks like a bundle: a folder with a manifest, or a file with the suffix of an archive."""
    return (source / MANIFEST).is_file() or source.name.endswith(SUFFIXES)


def short_name(source: Path) -> str:
    """Return a name for what a path stands for: `runs/candidate/bundle.tar.gz` is "candidate", `main.onnx` "main"."""
    suffix = next((each for each in SUFFIXES if source.name.endswith(each)), source.suffix)
    name = source.name.removesuffix(suffix)
    return source.absolute().parent.name if is_bundle(source) and name == _USUAL else name


def refusal_reason(source: Path, error: Rejected) -> str:
    """Return why a bundle is refused, with its path where the text names only a file in it."""
    return str(error) if str(error).startswith(str(source)) else f"{source}: {error}"


class ExportedFiles(ExitStack):
    """Opens what stands for an exported file; what is unpacked for it is there until the block ends."""

    def __init__(self) -> None:
        super().__init__()
        self._folders: dict[Path, Path] = {}

    def __call__(self, source: Path, runtime: Runtime | None = None) -> Path:
        """Return the file itself, or of a bundle the file for `runtime`; without one that of the bundle's own runtime.

        Raises:
            InputError: a bundle is damaged or is none, or it has no file for that runtime; the message names the file.
        """
        if not is_bundle(source):
            return source
        try:
            if source not in self._folders:
                self._folders[source] = self.enter_context(opened(source))
            manifest = check_files(self._folders[source], Verification())
        except Rejected as error:
            raise InputError(refusal_reason(source, error)) from error
        main: dict[str, str] = manifest["main"]
        wanted = runtime or manifest["runtime"]
        if wanted not in main:
            raise InputError(f"{source}: found no file for {wanted} in this bundle, allowed: {', '.join(main)}")
        file = self._folders[source] / main[wanted]
        return self._unpacked(file) if file.suffix == PACKED else file

    def _unpacked(self, file: Path) -> Path:
        """Unpack a bundle's model file into a folder that is there until the block ends; return the file in it."""
        if file not in self._folders:
            folder = self.enter_context(tempfile.TemporaryDirectory(prefix="secateur-model-"))
            unpack_network(file, Path(folder))
            self._folders[file] = Path(folder)
        return self._folders[file] / file.name.removesuffix(PACKED)
