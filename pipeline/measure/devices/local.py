"""This machine: files stay where they are, and the worker runs in a new process of the same Python.

A new process has loaded nothing but the runtimes. One that has just trained a network is no place to time another: its
heap is large and scattered and its thread pools wake up, so that the same int8 file ran 1.3 times as long there.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.measure.worker_file import worker_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class LocalDevice:
    """This machine. `python` is another interpreter where another version of a runtime is to be measured.

    `module` is a module of this program that serves as the worker in place of the single file; it can do what that
    one cannot, such as loading torch networks.
    """

    python: str = sys.executable
    module: str | None = None
    url: ClassVar[str] = "local"
    emulated: ClassVar[bool] = False

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Return the files where they are."""
        return {name: str(path.resolve()) for name, path in files.items()}

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker, in a session of its own: an interruption from the keyboard is this process's to handle."""
        return self.run("-m", self.module) if self.module else self.run(str(worker_file()))

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python on a file, in a session of its own."""
        return subprocess.Popen(
            [self.python, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def close(self) -> None:
        """Hold nothing."""
