"""Locks between processes on one file system, by flock: the kernel ends a lock with its holder, however that died.

A lock is a file that says who holds it. Whoever lets go empties it, so that what is still written there when the next
one gets the lock is the name of a process that ended without finishing. Processes that a holder forks do not keep its
locks. The file system has to know flock, across hosts where several share it (NFS version 4 does).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError, ResourceError
from pipeline.core.units import age_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNNAMED = "another process"
#: After this a lock whose file names nobody is told all the same: its holder may be about to write its name.
_UNNAMED_S = 2.0
_held: set[int] = set()
#: What this process is doing, and since when, as other processes are told it.
_introduced: dict[str, str] = {}


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def introduce_process(doing: str) -> None:
    """Say what this process is doing from now on, such as `the run into runs/a`: locks that it takes tell it others."""
    _introduced.update(doing=doing, since=_now())


def hold(descriptor: int) -> None:
    """Remember a descriptor that has a lock, so that processes which this one forks do not keep it."""
    _held.add(descriptor)


def let_go(descriptor: int | None) -> None:
    """Close a descriptor that was held; its lock ends. Nothing happens to one that was closed before, or to None."""
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


@dataclass
class Lock:
    """A lock that this process holds. `left_by` names a holder before that ended without letting go; else empty."""

    descriptor: int
    exclusive: bool
    left_by: str = ""

    def release(self) -> None:
        """Let go; nothing happens the second time."""
        if self.exclusive and self.descriptor in _held:
            os.ftruncate(self.descriptor, 0)
        let_go(self.descriptor)


def acquire(file: Path, *, shared: bool = False) -> Lock | None:
    """Take the lock on a file, which is made where it is not there; None when another process (or lock) has it.

    Raises:
        ResourceError: the file cannot be made, or the file system has no locks.
    """
    while True:
        descriptor = _locked(file, shared=shared)
        if descriptor is None:
            return None
        # Between opening and locking the file may have been removed: then it is the lock of nobody else.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                break
        os.close(descriptor)
    hold(descriptor)
    lock = Lock(descriptor, not shared)
    if not shared:
        lock.left_by = _words(os.pread(descriptor, 4096, 0))
        with suppress(OSError):  # a full disk: the lock holds without a name
            _sign(descriptor)
    return lock


def reason(error: OSError) -> str:
    """Say in words why something was not written."""
    told = error.strerror or str(error)
    return f"{told}: the disk is full, free some space and run again" if error.errno in FULL else told


def holder(file: Path) -> str:
    """Say who holds the lock on a file, as far as it says so."""
    try:
        return _words(file.read_bytes()) or _UNNAMED
    except OSError:
        return _UNNAMED


def is_held(file: Path) -> bool:
    """Say whether a process, this one too, holds the lock on a file; nobody holds that of a file that is not there.

    Nothing is written. Raises OSError where it cannot be told: the file cannot be read, or has no locks.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def file_lock(file: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on `file` for the block; raises InputError with the text `busy` when another has it."""
    lock = acquire(file)
    if lock is None:
        raise InputError(busy)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waited_for(file: Path, what: str, limit_s: float, note: Callable[[str], None]) -> Iterator[str]:
    """Hold an exclusive lock on `file` for the block, and wait while another process has it.

    The block gets the name of the holder before where that ended without letting go, else an empty text. `note` is told
    once for whom and for what this one waits.

    Raises:
        ResourceError: another process still has it after `limit_s` seconds.
    """
    began, pause, told = time.monotonic(), _FIRST_PAUSE_S, False
    while (lock := acquire(file)) is None:
        who, waited = holder(file), time.monotonic() - began
        if waited >= limit_s:
            raise ResourceError(
                f"waited {age_text(limit_s)} for {who}, which is making {what}, and it has not finished. Stop it, or "
                f"run again with a longer --wait (or SECATEUR_WAIT)"
            )
        if not told and (who != _UNNAMED or waited >= _UNNAMED_S):
            note(f"waiting for {who}, which is making {what}")
            told = True
        time.sleep(min(pause, max(0.0, began + limit_s - time.monotonic())))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    try:
        yield lock.left_by
    finally:
        lock.release()


def _locked(file: Path, *, shared: bool) -> int | None:
    """Return a descriptor with a lock, or None when another has it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ResourceError(f"{file}, the lock of what is shared, cannot be made: {reason(error)}") from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in {errno.EWOULDBLOCK, errno.EINTR}:
            return None
        raise ResourceError(
            f"{file} cannot be locked ({error.strerror}): put it where the file system has locks"
        ) from error
    return descriptor


def _sign(descriptor: int) -> None:
    who = {"process": os.getpid(), "host": socket.gethostname(), "since": _now(), **_introduced}
    text = json.dumps(who, allow_nan=False)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _words(content: bytes) -> str:
    """Return what a lock's file says of its holder, in words; empty where it says nothing that can be read."""
    try:
        found = json.loads(content)
        place = f"process {int(found['process'])}"
        if found["host"] != socket.gethostname():
            place = f"{place} on {found['host']}"
        since = datetime.fromisoformat(found["since"]).astimezone().strftime("since %Y-%m-%d %H:%M")
        return f"{found['doing']} ({place}, {since})" if "doing" in found else f"{place} ({since})"
    except (ValueError, KeyError, TypeError):
        return ""
