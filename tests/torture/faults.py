"""What is done to a process of the command: it ends at its n-th file operation, or the disk is full from there on."""

from __future__ import annotations

import builtins
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CRASHED = 71
#: Operations that change a folder, as the interpreter names them when it tells its audit hooks.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR


class Full(io.FileIO):
    """A file whose every write finds the disk full."""

    def write(self, _: Any) -> int:  # noqa: ANN401 - a buffer
        """Raise what the system would."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)


def _matters(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        path, _, flags = arguments
        text = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
        return bool((flags or 0) & WRITES) and "__pycache__" not in text and not text.startswith(("/dev", "/proc"))
    return event in CHANGES


def count(then: Callable[[int], None]) -> None:
    """Call `then` with its number, from 1 on, before each file operation of this process."""
    done = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if _matters(event, arguments):
            done += 1
            then(done)

    sys.addaudithook(hook)


def crash_at(number: int) -> None:
    """End this process before its n-th file operation, as a power cut does: nothing is flushed, nothing cleaned up."""
    count(lambda done: os._exit(CRASHED) if done == number else None)


def full_from(number: int) -> None:
    """Let the n-th file that is opened for writing, and all after it, hold nothing: writes find the disk full."""
    real = io.open
    done = 0

    def limited(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - open's own
        nonlocal done
        if not set(mode) & set("wax+") or str(file).startswith("/dev"):
            return real(file, mode, *arguments, **options)
        done += 1
        if done < number:
            return real(file, mode, *arguments, **options)
        raw = Full(file, mode.replace("b", "").replace("t", ""), opener=options.get("opener"))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        encoding = options.get("encoding") or "utf-8"
        return io.TextIOWrapper(buffered, encoding=encoding)

    builtins.open = io.open = limited


def report_count(path: str) -> None:
    """Write the number of file operations so far into a file that is open already, after each of them."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT)
    count(lambda done: os.pwrite(target, f"{done:8}".encode(), 0))
