"""Which files a block of Python reads, and which files are the user's own."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Filled while `files_read` watches; Python cannot remove a hook, so that one hook looks here.
_watching: list[set[str]] = []
#: What the system makes up, and what Python and its libraries read of the system's by themselves. No more than that:
#: data may lie below /usr/local/share, /run/media, /dev/shm or /etc.
_SYSTEM = (
    *("/proc/", "/sys/", "/etc/localtime", "/etc/mime.types", "/etc/os-release", "/etc/ssl/", "/usr/lib/os-release"),
    *("/usr/share/ca-certificates/", "/usr/share/fonts/", "/usr/share/zoneinfo/"),
)
_WRITES = os.O_WRONLY | os.O_RDWR


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watching:
        path, mode, flags = arguments
        reads = "r" in mode if isinstance(mode, str) else not (isinstance(flags, int) and flags & _WRITES)
        if reads and isinstance(path, str | bytes | os.PathLike):
            given = Path(os.fsdecode(path))
            for seen in _watching:
                seen.add(str(given if given.is_absolute() else Path.cwd() / given))


_installed = False


@contextmanager
def files_read() -> Iterator[set[Path]]:
    """Give a set that holds, after the block, the files of this user's that Python opened for reading in it.

    Installed packages, `_SYSTEM` and Python's source are left out. What libraries open by themselves,
    without Python's `open`, is not seen.
    """
    global _installed  # noqa: PLW0603 - a hook can be added once and never removed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    seen: set[str] = set()
    found: set[Path] = set()
    _watching.append(seen)
    try:
        yield found
    finally:
        _watching.remove(seen)
        found.update(path for path in map(Path, users(seen)) if path.is_file())


def users(paths: Iterable[str]) -> list[str]:
    """Return those of absolute paths that may be data of the user's, which Python's source is not."""
    return [path for path in paths if not path.endswith((".py", ".pyc")) and is_users(path)]


def is_users(path: str) -> bool:
    """Say whether an absolute path is the user's own: not the system's, Python's or an installed package's."""
    return not path.startswith(_others(tuple(sys.path)))


@cache
def _others(places: tuple[str, ...]) -> tuple[str, ...]:
    """Return the beginnings of paths that are not the user's; `places` are those where modules are looked for."""
    installed = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    packages = {"site-packages", "dist-packages"}
    searched = [Path.cwd() / each for each in places]
    installed += [str(each) for each in searched if each.name in packages or any(each.glob("*.dist-info"))]
    found = {*installed} - {sysconfig.get_path("data"), sysconfig.get_path("scripts")}
    return (*_SYSTEM, *sorted(os.path.join(place, "") for place in found))  # noqa: PTH118 - with a / at its end
