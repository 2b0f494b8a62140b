"""Download of one public file with a checksum of its content; nothing is used that does not match."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.request
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.partial import partial_folder


def cache_folder() -> Path:
    """Return the folder for downloaded data: $SECATEUR_DATA, else `secateur/data` in the user's cache folder."""
    given = os.environ.get("SECATEUR_DATA")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur" / "data"


def read_verified(file: Path, sha256: str) -> bytes:
    """Return the content of a file (unpacked when it ends in .gz) whose sha256 must be the given one.

    Raises InputError when the content is another or cannot be unpacked.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{file} is not a complete gzip file ({error}). Remove it and fetch it again.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(f"{file}: content has sha256 {found}, expected {sha256}. Remove it and fetch it again.")
    return content


def download(url: str, file: Path, sha256: str) -> None:
    """Fetch `url` into `file`, atomically, if it is not there yet, and check its content.

    Raises InputError when the network does not give it; the message says how to put the file there by hand.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(file) as folder:
        part = folder / file.name
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (fixed http(s) addresses of ours)
                part.write_bytes(answer.read())
        except OSError as error:
            raise InputError(
                f"cannot download {url} ({error}). Fetch it on another machine and put it at {file}."
            ) from error
        read_verified(part, sha256)
        part.replace(file)
