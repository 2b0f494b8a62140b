"""This machine: files stay where they are, and the worker runs in a new process of the same Python.

A new process has loaded nothing but the runtimes. One that has just trained a network is no place to time another: its
heap is large and scattered and its thread pools wake up, so that the same int8 file ran 1.3 times as long there.
"""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.measure.worker_file import worker_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def started_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program with pipes, in a session of its own: an interruption from the keyboard is this process's."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)


class OnThisMachine(ABC):
    """A device whose programs see the files of this machine."""

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Return the files where they are."""
        return {name: str(path.resolve()) for name, path in files.items()}

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker; errors are those of `run`."""
        return self.run(str(worker_file()))

    @abstractmethod
    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python on a file, in a session of its own."""


@dataclass(frozen=True)
class LocalDevice(OnThisMachine):
    """This machine. `python` is another interpreter where another version of a runtime is to be measured.

    `module` is a module of this program that serves as the worker in place of the single file; it can do what that
    one cannot, such as loading torch networks.
    """

    python: str = sys.executable
    module: str | None = None
    url: ClassVar[str] = "local"
    emulated: ClassVar[bool] = False

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker."""
        return self.run("-m", self.module) if self.module else super().start()

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python on a file."""
        return started_process([self.python, script, *arguments])
