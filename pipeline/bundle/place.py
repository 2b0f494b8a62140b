"""Putting a bundle where a person wants it: whole or not at all, and never over something that is no bundle.

Its SHA256SUMS, which covers every other file, is signed with minisign: https://jedisct1.github.io/minisign/.
Checking the signature is part of verify.py (`check_signature`).
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from pipeline.bundle.archive import SUFFIX, is_archive_of_a_bundle, write_archive
from pipeline.bundle.assemble import assemble
from pipeline.bundle.on_device import verify
from pipeline.core.errors import InputError, ResourceError, StageError
from pipeline.core.partial import partial_folder
from pipeline.results.bundle import SIGNATURE_FILE, SUMS_FILE
from pipeline.results.run import BundleRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.bundle.content import Content


def write_bundle(content: Content, places: Sequence[Path], *, secret_key: Path | None = None) -> str:
    """Write one bundle to all places: archives where a name ends in .tar.gz or .tgz, else folders. Return its digest.

    Raises:
        InputError: something that is no bundle is there, or minisign does not sign.
        StageError: the new bundle does not pass its own check.
        ResourceError: it cannot be written; what was there before is still there.
    """
    if secret_key is not None:
        check_key(secret_key)
    for place in places:
        _check_place(place)
    try:
        with partial_folder(places[0]) as partial:
            made = partial / "bundle"
            made.mkdir()
            digest = assemble(content, made)
            _check(made)
            if secret_key is not None:
                sign(made, secret_key)
            for place in places:
                _put(made, place)
    except OSError as error:
        where = error.filename or places[0]
        raise ResourceError(
            f"{where} cannot be written: {error.strerror or error}. Free some space, or name another place: --out"
        ) from error
    return digest


def write_beside_run(content: Content, *, secret_key: Path | None = None) -> BundleRecord:
    """Write a run's bundle into its own folder, as a folder and as an archive. Raises as `write_bundle` does."""
    folder, archive = content.run_folder / "bundle", content.run_folder / f"bundle{SUFFIX}"
    digest = write_bundle(content, (folder, archive), secret_key=secret_key)
    return BundleRecord(folder=folder.name, archive=archive.name, archive_bytes=archive.stat().st_size, digest=digest)


def _is_archive(place: Path) -> bool:
    """Say whether a place is meant for an archive."""
    return place.name.endswith((SUFFIX, ".tgz"))


def _check_place(place: Path) -> None:
    """Raise InputError where something is that must not be replaced."""
    if not place.exists() and not place.is_symlink():
        return
    if _is_archive(place):
        replaceable = place.is_file() and is_archive_of_a_bundle(place)
    else:
        replaceable = place.is_dir() and not place.is_symlink() and _replaceable(place)
    if not replaceable:
        what = "the archive of a bundle" if _is_archive(place) else "a bundle, or not only a bundle"
        raise InputError(f"{place} exists and is not {what}; allowed: a free place, or a bundle to replace")


def _replaceable(folder: Path) -> bool:
    """Say whether a folder is empty, or holds nothing but a bundle, whatever has become of its files."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not found:
        return True
    try:
        manifest = verify.read_manifest(verify.read_file(folder, verify.MANIFEST, verify.TEXT_BYTES))
    except verify.Rejected:
        return False
    own = {*manifest["files"], verify.MANIFEST, verify.SUMS, verify.SIGNATURE}
    return all(name in own or "__pycache__" in name.split("/") for name in found)


def _check(made: Path) -> None:
    """Check a new bundle as those who get it will. Raises StageError, which no bundle should ever do."""
    try:
        verify.check_files(made, verify.Verification())
    except verify.Rejected as error:
        raise StageError(f"the new bundle does not pass its own check and was not written: {error}") from error


def _put(made: Path, place: Path) -> None:
    """Copy a bundle beside its place under another name, then rename."""
    with partial_folder(place) as partial:
        new = partial / "new"
        if _is_archive(place):
            write_archive(made, new)
            new.replace(place)
            return
        shutil.copytree(made, new)
        old = partial / "old"
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise


PROGRAM = "minisign"
#: Fixed texts, so that the same key and the same bundle give the same bytes.
_COMMENT = "signature of an edge bundle's SHA256SUMS"
_TRUSTED_COMMENT = "edge bundle by secateur"


def check_key(secret_key: Path) -> None:
    """Raise InputError where nothing could be signed with this key; it is not opened yet."""
    if not secret_key.is_file():
        raise InputError(f"{secret_key}: found no file, expected a secret minisign key; make one: minisign -G")
    if shutil.which(PROGRAM) is None:
        raise InputError("minisign, which signs bundles, is not installed; install it: apt-get install minisign")


def sign(folder: Path, secret_key: Path) -> None:
    """Write SHA256SUMS.minisig into a bundle's folder. minisign asks for a password itself where the key has one.

    Raises:
        InputError: minisign did not sign; it has said why.
    """
    check_key(secret_key)
    files = ["-s", str(secret_key.resolve()), "-m", str(folder / SUMS_FILE), "-x", str(folder / SIGNATURE_FILE)]
    comments = ["-c", _COMMENT, "-t", _TRUSTED_COMMENT]
    done = subprocess.run([PROGRAM, "-S", *files, *comments], check=False, stdout=2)  # noqa: S603 - a list, no shell
    if done.returncode or not (folder / SIGNATURE_FILE).is_file():
        raise InputError(f"minisign did not sign with {secret_key}: see its message above; expected the key's password")
