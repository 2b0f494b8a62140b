"""Paths as a recipe writes them: relative to the recipe's own folder, and checked when the recipe is read.

The folder comes with the validation context, `{"folder": Path}`. Without one (a model that is built in Python) a path
stays as it is and is not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo


def resolved(path: Path, folder: Path) -> Path:
    """Return `path` as an absolute path: `~` is the user's home, and anything relative starts at `folder`."""
    return (folder / path.expanduser()).resolve()


def _file(path: Path, info: ValidationInfo) -> Path:
    if info.context is None:
        return path
    found = resolved(path, info.context["folder"])
    if not found.is_file():
        what = "a folder" if found.is_dir() else "no such file"
        raise ValueError(f'found "{path}", which is {found}: {what}, allowed: an existing file')
    return found


def _folder(path: Path, info: ValidationInfo) -> Path:
    if info.context is None:
        return path
    found = resolved(path, info.context["folder"])
    if not found.is_dir():
        what = "a file" if found.is_file() else "no such folder"
        raise ValueError(f'found "{path}", which is {found}: {what}, allowed: an existing folder')
    return found


ExistingFile = Annotated[Path, AfterValidator(_file)]
ExistingFolder = Annotated[Path, AfterValidator(_folder)]
