"""Locks end with their holder, whatever it forked, and tell who holds them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core import locks
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.locks import acquire, file_lock, holder, introduce_process, waited_for
from pipeline.core.store import Store

if TYPE_CHECKING:
    from pathlib import Path


def test_one_has_it_or_many_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exclusive against all, shared against exclusive alone; free again once let go."""
    monkeypatch.setattr(locks, "_introduced", {})
    file = tmp_path / "locks" / "one"
    first = acquire(file)
    assert first is not None
    assert acquire(file) is None
    assert acquire(file, shared=True) is None
    assert f"process {os.getpid()} (since " in holder(file)
    first.release()
    first.release()
    assert file.read_bytes() == b""
    shared = [acquire(file, shared=True) for _ in range(2)]
    assert all(shared)
    assert acquire(file) is None
    for lock in shared:
        lock.release()  # type: ignore[union-attr]
    last = acquire(file)
    assert last is not None
    assert last.left_by == ""
    last.release()


def test_a_removed_file_is_no_lock(tmp_path: Path) -> None:
    """Who waits for a file that was removed meanwhile gets the lock of the new one."""
    file = tmp_path / "one"
    first = acquire(file)
    file.unlink()
    second = acquire(file)
    assert second is not None
    assert acquire(file) is None
    for lock in (first, second):
        lock.release()  # type: ignore[union-attr]


def test_what_is_written_in_a_lock_is_believed_only_where_it_can_be_read(tmp_path: Path) -> None:
    """Whatever a crash left there, it is another process."""
    file = tmp_path / "one"
    for content in (b"", b"\xff\xfe", b"[]", b'{"process": "x"}'):
        file.write_bytes(content)
        assert holder(file) == "another process"
        lock = acquire(file)
        assert lock is not None
        assert lock.left_by == ""
        file.write_bytes(content)
        lock.release()


HOLDER = """
import os, sys, time
from pathlib import Path
from pipeline.core.locks import acquire
lock = acquire(Path(sys.argv[1]))
if not os.fork():
    print(os.getpid(), flush=True)  # by then it has let go
time.sleep(600)
"""


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A holder is killed, its child lives on: the lock is free."""
    file = tmp_path / "one"
    outer = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True)
    assert outer.stdout is not None
    child = int(outer.stdout.readline())
    assert acquire(file) is None
    outer.kill()
    outer.wait()
    os.kill(child, 0)
    lock = acquire(file)
    os.kill(child, signal.SIGKILL)
    outer.stdout.close()
    assert lock is not None
    assert f"process {outer.pid} (since " in lock.left_by
    lock.release()


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Not a silent go-ahead."""
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be made"):
        acquire(tmp_path / "file" / "one")
    with (
        file_lock(tmp_path / "two", "busy"),
        pytest.raises(InputError, match="busy"),
        file_lock(tmp_path / "two", "busy"),
    ):
        pass


def test_who_holds_a_lock_says_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run and since when it runs, on which host where that is another; a wait is told once for each holder."""
    monkeypatch.setattr(locks, "_introduced", {})
    introduce_process("the run of toy.yaml into runs/a")
    file, store, told = tmp_path / "lock", Store(tmp_path, 0.3), []
    with file_lock(file, "busy"):
        named = holder(file)
        assert re.fullmatch(rf"the run of toy.yaml into runs/a \(process {os.getpid()}, since [-\d]+ [:\d]+\)", named)
        for stage in ("prune", "finetune"):
            with pytest.raises(ResourceError), waited_for(file, stage, 0.3, store._once(told.append)):
                pass
        assert told == [f"waiting for {named}, which is making prune"]
        monkeypatch.setattr(locks.socket, "gethostname", lambda: "elsewhere")
        assert " on " in holder(file)
