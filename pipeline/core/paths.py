"""Where the bundled files are, and paths as a recipe writes them: relative to its own folder, checked when it is read.

The folder comes with the validation context, `{"folder": Path}`. Without one (a model that is built in Python) a path
stays as it is and is not looked at.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, ValidationInfo

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes of a file's name: less than the 255 that file systems take, since endings are added.
LONGEST_NAME = 200


def bundled_root() -> Path:
    """Return the folder that holds `recipes/` and `models/`: the package when installed, else the checkout."""
    package = Path(__file__).resolve().parents[1]
    return package if (package / "recipes").is_dir() else package.parent


def cache_root() -> Path:
    """Return the folder for what can be made again: $XDG_CACHE_HOME/secateur, or ~/.cache/secateur."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"


def check_folder(path: Path, role: str, advice: str) -> None:
    """Refuse what is no folder, or would not become one, that files can be written into; nothing is made.

    Args:
        path: the folder, which may not be there yet.
        role: what it is for, in words.
        advice: how to name another.

    Raises:
        InputError: something else has its name, the name is one that no file system takes, or nothing can be written.
        OSError: the disk is full.
    """
    try:
        path.lstat() if "\0" in str(path) else None  # says so, where exists() says no
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=there):  # root may write where the mode says no, but not where a mount says it
            pass
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number in {errno.ENOSPC, errno.EDQUOT}:
            raise
        why = os.strerror(number) if number else str(error)
        raise InputError(f"{path} cannot be {role}: {why}; {advice}") from error


def make_folder(path: Path, role: str, advice: str) -> None:
    """Make a folder that files can be written into. Arguments and errors are those of `check_folder`."""
    check_folder(path, role, advice)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{path} cannot be {role}: it is {kind_of(path) or 'a link to nothing'}; {advice}") from error


def file_name(text: str) -> str:
    """Return a text as a name that file systems take: of a long one the start, and a digest of all of it."""
    if len(text.encode(errors="surrogateescape")) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
    start = text.encode(errors="surrogateescape")[: LONGEST_NAME - 13].decode(errors="ignore")
    return f"{start}-{digest}"


def short_paths(paths: Sequence[str]) -> dict[str, str]:
    """Return for each path as few of its last parts as tell it from the others, such as `a/model.onnx`."""
    found: dict[str, str] = {}
    for path in paths:
        parts, others = Path(path).parts, [Path(other).parts for other in paths if other != path]
        needed = (n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others))
        found[path] = str(Path(*parts[-next(needed, len(parts)) :]))
    return found


def kind_of(path: Path) -> str:
    """Return `a file`, `a folder`, `no file` for devices, pipes and sockets, and nothing for what is not there."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a name that no file system takes is no file either
        return ""
    return "a file" if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "no file"


def unreadable_reason(path: Path, expected: str) -> str:
    """Say why a path is no file that can be read, such as a link to nowhere or a pipe; empty: it is one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a link to {path.readlink()}, which is not there" if path.is_symlink() else f"{error.strerror}"
    if stat.S_ISREG(mode):
        return "" if os.access(path, os.R_OK) else "may not be read by this user"
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return f"{kinds.get(stat.S_IFMT(mode), 'a device')}, not {expected}"


def content_of(path: Path) -> bytes:
    """Return the content of a file.

    Raises OSError where it is missing or cannot be read, and for pipes and devices: one would be waited for, the other
    read without end.
    """
    if kind_of(path) == "no file":
        raise OSError(errno.EINVAL, "is a pipe or a device, expected a file", str(path))
    return path.read_bytes()


def resolve_path(path: Path, folder: Path) -> Path:
    """Return `path` as an absolute path: `~` is the user's home, and anything relative starts at `folder`.

    Raises ValueError for the home of a user who is not there, for a NUL, and for links that lead in a circle.
    """
    try:
        return (folder / path.expanduser()).resolve()
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"found {str(path)!r}: {error}, allowed: a path") from error


def existing_file(path: Path, info: ValidationInfo, alternative: str = "") -> Path:
    """Return the absolute path of a file; raises ValueError when there is none, with what else is allowed there."""
    if info.context is None:
        return path
    found = resolve_path(path, info.context["folder"])
    kind = kind_of(found)
    if kind != "a file":
        what = f"it is {kind}" if kind == "no file" else kind or "no such file"
        raise ValueError(f'found "{path}", which is {found}: {what}, allowed: an existing file{alternative}')
    return found


def _file(path: Path, info: ValidationInfo) -> Path:
    return existing_file(path, info)


def _folder(path: Path, info: ValidationInfo) -> Path:
    if info.context is None:
        return path
    found = resolve_path(path, info.context["folder"])
    kind = kind_of(found)
    if kind != "a folder":
        what = "no folder" if kind == "no file" else kind or "no such folder"
        raise ValueError(f'found "{path}", which is {found}: {what}, allowed: an existing folder')
    return found


def _path(path: Path, info: ValidationInfo) -> Path:
    if info.context is None:
        return path
    found = resolve_path(path, info.context["folder"])
    if not found.exists():
        raise ValueError(f'found "{path}", which is {found}: not there, allowed: an existing file or folder')
    return found


ExistingFile = Annotated[Path, AfterValidator(_file)]
ExistingFolder = Annotated[Path, AfterValidator(_folder)]
ExistingPath = Annotated[Path, AfterValidator(_path)]
