"""`secateur verify`: the checks of verify.py with this program's own copy of it, never with code of the bundle."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.bundle.archive import unpack
from pipeline.bundle.assemble import programs_of
from pipeline.bundle.check_task import has_packed, is_task, run_task_samples
from pipeline.bundle.on_device import verify
from pipeline.bundle.on_device.verify import MANIFEST, Rejected, Verification, VerifyOptions
from pipeline.results.bundle import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_bundle(bundle: Path, wanted: VerifyOptions, found: Verification) -> None:
    """Verify a bundle, a folder or an archive; `found` is filled while it goes on. Raises Rejected."""
    with opened(bundle) as folder:
        manifest = check_content(folder, wanted, found)
        if is_task(manifest):
            run_task_samples(folder, manifest, wanted, found)
        else:
            verify.self_test(folder, manifest, wanted, found)
        found.verified = True


def check_content(folder: Path, wanted: VerifyOptions, found: Verification) -> dict[str, Any]:
    """Check all of a bundle's folder that needs no runtime, and return its manifest. Raises Rejected."""
    manifest = verify.check_files(folder, found)
    _check_manifest(folder)
    verify.check_origin(folder, wanted, found)
    for name, own in programs_of(images=not is_task(manifest), packed=has_packed(manifest)).items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != own.read_bytes():
            found.notes.append(f"{name} is not that of this version of secateur, and is not run")
    return manifest


@contextmanager
def opened(bundle: Path) -> Iterator[Path]:
    """Give the folder of a bundle; an archive is unpacked into one that is removed at the end. Raises Rejected."""
    if bundle.is_dir():
        yield bundle
        return
    if not bundle.is_file():
        raise Rejected(f"{bundle}: found no such file or folder, expected a bundle's folder or its .tar.gz")
    with tempfile.TemporaryDirectory(prefix="secateur-bundle-") as folder:
        try:
            unpack(bundle, Path(folder))
        except OSError as error:
            raise Rejected(f"{bundle}: it cannot be unpacked into {folder}: {error.strerror or error}") from error
        yield Path(folder)


def _check_manifest(folder: Path) -> None:
    """Check every field of manifest.json, those as well that verification itself does not need."""
    try:
        Manifest.model_validate_json((folder / MANIFEST).read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Rejected(f"{MANIFEST}: {where}: {first['msg']}") from error
