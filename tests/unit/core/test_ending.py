"""The command ends: errors of the system in words, and threads that are left running do not keep the process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import shutil, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pipeline import cli
from pipeline.core import ending
from pipeline.core.errors import InputError

ending.PATIENCE_S = float(sys.argv[2])
def app():
    exec(sys.argv[1])
cli.app = app
cli.main()
"""
SPIN = "threading.Thread(target=time.sleep, args=(60,), name='spin').start(); print('done')"
IDLE = "pool = ThreadPoolExecutor(1); pool.submit(int).result(); print('done')"
SHORT = "threading.Thread(target=time.sleep, args=(0.2,)).start(); print('done')"
LEFT = "left running: spin. No daemon"


@pytest.mark.parametrize(
    ("doing", "patience_s", "code", "told"),
    [
        (SPIN, 0.1, 0, LEFT),
        (f"{SPIN}; sys.exit(4)", 0.1, 4, LEFT),
        (f"{SPIN}; raise InputError('wrong')", 0.1, 2, LEFT),
        (f"{SPIN}; raise ValueError('a bug')", 0.1, 1, LEFT),
        (IDLE, 30, 0, ""),
        (SHORT, 30, 0, ""),
    ],
)
def test_threads_do_not_keep_the_process(doing: str, patience_s: float, code: int, told: str) -> None:
    """Those that do not end are named and left, with the command's exit code; all others end as they always did."""
    command = [sys.executable, "-c", PROGRAM, doing, str(patience_s)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)
    assert (ended.returncode, ended.stdout) == (code, "done\n"), ended.stderr
    assert told in ended.stderr
    assert told or not ended.stderr


@pytest.mark.parametrize(
    ("doing", "code", "told"),
    [
        (
            "Path('link').symlink_to('.'); shutil.rmtree('link')",
            3,
            "error: OSError: Cannot call rmtree on a symbolic link. With SECATEUR_TRACEBACK=1",
        ),
        ("raise OSError(28, 'No space left on device')", 3, "error: OSError: No space left on device. Run again once"),
        ("open('nowhere/x')", 2, "error: nowhere/x: No such file or directory. Give another path"),
    ],
)
def test_errors_of_the_system_are_told(tmp_path: Path, doing: str, code: int, told: str) -> None:
    """With the name of the file, and also where the error has none; never as a traceback."""
    command = [sys.executable, "-c", PROGRAM, doing, "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False, cwd=tmp_path)
    assert ended.returncode == code
    assert ended.stderr.startswith(told)
    assert len(ended.stderr.splitlines()) == 1
