"""Where the bundled files are, and paths as a recipe writes them: relative to its own folder, checked when it is read.

The folder comes with the validation context, `{"folder": Path}`. Without one (a model that is built in Python) a path
stays as it is and is not looked at.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from pipeline.core.errors import ResourceError


def bundled_root() -> Path:
    """Return the folder that holds `recipes/` and `models/`: the package when installed, else the checkout."""
    package = Path(__file__).resolve().parents[1]
    return package if (package / "recipes").is_dir() else package.parent


def cache_root() -> Path:
    """Return the folder for what can be made again: $XDG_CACHE_HOME/secateur, or ~/.cache/secateur."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that `path` holds the old content or the whole new one, never a part.

    Raises:
        ResourceError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(f"{path} cannot be written: {error.strerror}") from error


def resolved(path: Path, folder: Path) -> Path:
    """Return `path` as an absolute path: `~` is the user's home, and anything relative starts at `folder`."""
    return (folder / path.expanduser()).resolve()


def existing_file(path: Path, info: ValidationInfo, alternative: str = "") -> Path:
    """Return the absolute path of a file; raises ValueError when there is none, with what else is allowed there."""
    if info.context is None:
        return path
    found = resolved(path, info.context["folder"])
    if not found.is_file():
        what = "a folder" if found.is_dir() else "no such file"
        raise ValueError(f'found "{path}", which is {found}: {what}, allowed: an existing file{alternative}')
    return found


def _file(path: Path, info: ValidationInfo) -> Path:
    return existing_file(path, info)


def _folder(path: Path, info: ValidationInfo) -> Path:
    if info.context is None:
        return path
    found = resolved(path, info.context["folder"])
    if not found.is_dir():
        what = "a file" if found.is_file() else "no such folder"
        raise ValueError(f'found "{path}", which is {found}: {what}, allowed: an existing folder')
    return found


def _path(path: Path, info: ValidationInfo) -> Path:
    if info.context is None:
        return path
    found = resolved(path, info.context["folder"])
    if not found.exists():
        raise ValueError(f'found "{path}", which is {found}: not there, allowed: an existing file or folder')
    return found


ExistingFile = Annotated[Path, AfterValidator(_file)]
ExistingFolder = Annotated[Path, AfterValidator(_folder)]
ExistingPath = Annotated[Path, AfterValidator(_path)]
