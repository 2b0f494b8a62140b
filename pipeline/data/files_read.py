"""Which files a block of Python reads: what `load` of a data file depends on beside its own text."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from contextlib import contextmanager
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
    """Return those of absolute paths that may be data of the user's: no Python source, none of `_not_the_users`."""
    apart = _not_the_users()
    return [path for path in paths if not path.startswith(apart) and not path.endswith((".py", ".pyc"))]


def _not_the_users() -> tuple[str, ...]:
    """Return the beginnings of paths that belong to the system, to Python or to an installed package."""
    places = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    parts = [place for place in sys.path if Path(place).name in {"site-packages", "dist-packages"}]
    found = {*places, *parts, *_SYSTEM}
    return tuple(sorted(found - {sysconfig.get_path("data"), sysconfig.get_path("scripts")}))
