"""Temporary files and folders beside what they become, and none of them left by a process that was killed.

Each is locked by the process that writes it, so that the next one can tell what is left over from what is being made.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from pipeline.core.errors import ResourceError
from pipeline.core.locks import hold, let_go, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

SUFFIX = ".partial"
#: Characters of the name in the temporary name: names of the file system's full length leave room for no more.
NAMED = 64


@contextmanager
def partial_folder(place: Path) -> Iterator[Path]:
    """Give a new folder beside `place`, which is removed at the end, and first remove what killed processes left."""
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_left_over(place)
    folder, descriptor = _new(place, _make_folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        let_go(descriptor)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that `path` holds the old content or the whole new one, never a part, whatever ends the process.

    Raises:
        ResourceError: it cannot be written.
    """
    with _in_words(path):
        write_whole_with(path, _writer_of(content.encode() if isinstance(content, str) else content))


def write_whole_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file as `write_whole` does, by a function that writes to a stream. Raises OSError, and what it raises."""
    with _written(path, write) as partial:
        partial.replace(path)
    sync_folder(path.parent)


def write_all_whole(files: Mapping[Path, bytes]) -> None:
    """Write several files as `write_whole` does; the first gets its name once all of them are on the disk.

    Raises:
        ResourceError: one cannot be written.
    """
    partial = {}
    with ExitStack() as stack:
        for path, content in files.items():
            with _in_words(path):
                partial[path] = stack.enter_context(_written(path, _writer_of(content)))
        for path, written in partial.items():
            with _in_words(path):
                written.replace(path)
    for folder in {path.parent for path in files}:
        sync_folder(folder)


@contextmanager
def _written(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[Path]:
    """Give a file beside `path` with what a function writes, brought to the disk; it is removed unless it was renamed.

    What killed processes left there is removed first. Raises OSError, and what the function raises.
    """
    remove_left_over(path)
    partial, descriptor = _new(path, _make_file)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        let_go(descriptor)


def _writer_of(content: bytes) -> Callable[[BinaryIO], object]:
    return lambda stream: stream.write(content)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into a ResourceError that names the path."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{path} cannot be written: {reason(error)}") from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all: it is one write, taken back where the disk was too full for all of it.

    A last line that a crash left without its end is ended first. Raises OSError when it cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        ended = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        data = f"{'' if ended else chr(10)}{line}\n".encode()
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # a file system that keeps names by itself
            raise
    finally:
        os.close(descriptor)


def remove(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a folder with all in it, or a file, or a link and not what it leads to; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=ignore_errors)
    else:
        path.unlink(missing_ok=True)


def remove_left_over(place: Path) -> None:
    """Remove temporaries of `place` that no process holds; a folder that stood at `place` before is put back there."""
    start = f".{place.name[:NAMED]}."
    for found in sorted(place.parent.iterdir()) if place.parent.is_dir() else ():
        if found.name.startswith(start) and found.name.endswith(SUFFIX):
            descriptor = _locked(found)
            if descriptor is not None:
                _remove(found, place)
                let_go(descriptor)


def _new(place: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Return a new temporary and a descriptor that holds its lock, where the file system has locks."""
    while True:
        path = place.parent / f".{place.name[:NAMED]}.{secrets.token_hex(4)}{SUFFIX}"
        descriptor = make(path)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is(descriptor, path):  # else another process took it for a left-over between the two
            hold(descriptor)
            return path, descriptor
        os.close(descriptor)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is(descriptor: int, path: Path) -> bool:
    """Say whether what a descriptor has open is still what lies at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove(found: Path, place: Path) -> None:
    before = found / "old"
    if before.exists() and not place.exists():  # killed between taking the old one away and putting the new one there
        before.rename(place)
    remove(found)


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock on a temporary; None when another process has it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or the file system has no locks: it is left alone then
        os.close(descriptor)
        return None
    if _is(descriptor, path):
        hold(descriptor)
        return descriptor
    os.close(descriptor)
    return None
