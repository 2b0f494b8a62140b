"""Files are written whole, and no killed process leaves temporaries for ever."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import ResourceError
from pipeline.core.partial import append_line, partial_folder, remove_left_over, write_all_whole, write_whole

if TYPE_CHECKING:
    from pathlib import Path

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.core import partial
place = Path(sys.argv[1])
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "file":
    partial.write_whole(place, "new")
with partial.partial_folder(place) as folder:
    if sys.argv[2] == "swap":
        place.rename(folder / "old")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(place: Path, kind: str) -> None:
    """Let a process die in the middle."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(place), kind], check=False)
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_write_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    """The content is the old one until the new one is whole; other files' temporaries stay."""
    place = tmp_path / "run.json"
    write_whole(place, "old")
    killed(place, "file")
    assert place.read_text() == "old"
    assert len(names(tmp_path)) == 2
    (tmp_path / ".run.json.copy").touch()
    write_whole(place, b"new")
    assert place.read_bytes() == b"new"
    assert names(tmp_path) == [".run.json.copy", "run.json"]
    assert place.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_several_files_get_their_names_once_all_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second cannot be written, the first is what it was, and nothing else is left."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_whole(first, "old")
    with monkeypatch.context() as patch:
        full = iter([lambda: None, _full])
        patch.setattr(os, "fsync", lambda _: next(full)())
        with pytest.raises(ResourceError, match=r"second cannot be written: .*the disk is full"):
            write_all_whole({first: b"new", second: b"new"})
    assert names(tmp_path) == ["first"]
    assert first.read_text() == "old"
    write_all_whole({first: b"1", second: b"2"})
    assert [first.read_bytes(), second.read_bytes()] == [b"1", b"2"]
    assert names(tmp_path) == ["first", "second"]


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_killed_exchange_of_folders_is_undone(tmp_path: Path) -> None:
    """What stood at the place is put back where nothing new stands there; what is in use is left alone."""
    place = tmp_path / "bundle"
    place.mkdir()
    (place / "model").touch()
    killed(place, "swap")
    assert not place.exists()
    with partial_folder(place) as mine:
        assert names(place) == ["model"]
        assert names(tmp_path) == sorted([mine.name, "bundle"])
        remove_left_over(place)
        assert mine.is_dir()
    assert names(tmp_path) == ["bundle"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays, nothing half-written is left, and the message says what to do."""
    place = tmp_path / "plan.json"
    write_whole(place, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"plan.json cannot be written: No space left on device: the disk is full"):
        write_whole(place, "new")
    monkeypatch.undo()
    assert names(tmp_path) == ["plan.json"]
    assert place.read_text() == "old"


def test_names_of_full_length_can_be_written(tmp_path: Path) -> None:
    """The temporary's name is no longer than the file system allows."""
    place = tmp_path / ("x" * 255)
    write_whole(place, "content")
    assert place.read_text() == "content"


def test_lines_are_added_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that did not fit is taken back, and one that a crash cut off does not take the next one with it."""
    file = tmp_path / "history.jsonl"
    append_line(file, "one")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:2]))
    with pytest.raises(OSError, match="No space"):
        append_line(file, "two")
    monkeypatch.undo()
    assert file.read_text() == "one\n"
    with file.open("a") as stream:
        stream.write("cut")
    append_line(file, "three")
    assert file.read_text() == "one\ncut\nthree\n"


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found
