"""Signing a bundle with minisign, an existing program: https://jedisct1.github.io/minisign/.

What is signed is SHA256SUMS, which covers every other file. Checking is part of verify.py (`check_signature`).
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.results.bundle import SIGNATURE_FILE, SUMS_FILE

if TYPE_CHECKING:
    from pathlib import Path

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
