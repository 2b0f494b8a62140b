"""Ctrl-C and SIGTERM: one line, the exit code, the line that goes on, whatever a library makes of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

#: What a stage may be doing when the signal comes; `ready` tells the test that it is doing it.
DOING = {
    "python": "ready(); time.sleep(60)",
    "made into another error": """
try:
    ready(); time.sleep(60)
except BaseException as error:
    raise InputError("the network cannot be exported") from error
""",
    "swallowed, then progress": """
try:
    ready(); time.sleep(60)
except BaseException:
    pass
progress.update(1, 2, "x")
time.sleep(60)
""",
    "swallowed, then another error": """
try:
    ready(); time.sleep(60)
except BaseException:
    pass
raise ValueError("something is missing")
""",
    "while an object is deleted": """
class Slow:
    def __del__(self):
        ready(); time.sleep(60)
made = Slow()
del made
progress.note("x")
""",
    "native code": """
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(lock)
ready()
libc.pthread_mutex_lock(lock)
""",
    "going on for ever": """
while True:
    try:
        ready(); time.sleep(60)
    except BaseException:
        pass
""",
}
PROGRAM = """
import ctypes, sys, time
from pathlib import Path
from pipeline import cli
from pipeline.core import interruption
from pipeline.core.errors import InputError
from pipeline.report.progress import ConsoleProgress

interruption.PATIENCE_S = interruption.CLOSING_S = 0.5
def ready():
    Path(sys.argv[1]).touch()
def app():
    interruption.advise("Resume with: this")
    with ConsoleProgress() as progress:
        exec(sys.argv[2], {**globals(), "progress": progress})
cli.app = app
cli.main()
"""


@pytest.mark.parametrize(
    ("doing", "number"), [*((doing, signal.SIGINT) for doing in DOING), ("python", signal.SIGTERM)]
)
def test_one_line_and_how_to_go_on(tmp_path: Path, doing: str, number: signal.Signals) -> None:
    """The exit code is that of the signal; no traceback, no error of a library, no empty line."""
    mark = tmp_path / "ready"
    command = [sys.executable, "-c", PROGRAM, str(mark), DOING[doing]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert (out, err.strip()) == ("", "Interrupted\nResume with: this")
