"""Starts the command by the hundred: one warm process forks a child for each, which starts in no time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import server

WARM_S, LIMIT_S = 300, 120


@dataclass
class Ended:
    """How a command ended."""

    code: int | None
    out: str
    err: str

    def wrong(self, *allowed: int) -> str:
        """Return what is wrong with it: a hang, a traceback, a code that is not allowed, a failure without a word."""
        if self.code is None:
            return "it hung"
        if "Traceback (most recent call last)" in self.out + self.err:
            return "traceback: " + " / ".join(self.err.strip().splitlines()[-3:])
        if self.code not in allowed:
            return f"exit code {self.code}, allowed {allowed}: {self.err.strip()[-300:]}"
        return "" if self.code == 0 or self.err.strip() else f"exit code {self.code} without a word"


@dataclass
class Commands:
    """The warm process, from the first command on. `folder` holds the project that it runs to get warm, and outputs."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    ended: dict[int, int | None] = field(default_factory=dict)
    outputs: dict[int, Path] = field(default_factory=dict)
    started: int = 0
    _buffer: bytes = b""

    def warm(self) -> subprocess.Popen[bytes]:
        """Return the process; the first call starts it and waits until it is warm."""
        if self.process:
            return self.process
        command = [sys.executable, "-m", server.__name__, str(self.folder)]
        root = Path(__file__).resolve().parents[1]
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert self._answer(WARM_S) == {"ready": True}, (self.folder / "server.log").read_text()
        return self.process

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """Return the next line of the server; None when there is none in time."""
        assert self.process
        assert self.process.stdout
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not more:
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self, cwd: Path, *argv: str, environment: dict[str, str] | None = None, **fault: Any) -> int:  # noqa: ANN401
        """Start a command and return its process id; `fault` is a function of faults.py and its argument."""
        process = self.warm()
        assert process.stdin
        self.started += 1
        output = self.folder / f"output-{self.started}"
        for name in ("out", "err"):
            Path(f"{output}.{name}").touch()
        job = {"argv": argv, "cwd": str(cwd), "environment": environment or {}, "fault": fault, "output": str(output)}
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        while True:
            answer = self._answer(LIMIT_S)
            assert answer, "the server is gone"
            if "code" not in answer:
                self.outputs[answer["pid"]] = output
                return int(answer["pid"])
            self.ended[answer["pid"]] = answer["code"]

    def said(self, pid: int) -> str:
        """Return what a command has written to standard error so far."""
        return Path(f"{self.outputs[pid]}.err").read_text(errors="replace")

    def running(self, pid: int) -> bool:
        """Return whether a command has not ended yet."""
        while pid not in self.ended and (answer := self._answer(0.0)):
            self.ended[answer["pid"]] = answer["code"]
        return pid not in self.ended

    def wait(self, pid: int, seconds: float = LIMIT_S) -> Ended:
        """Wait for a command; one that takes longer is killed, and has no code."""
        end = time.monotonic() + seconds
        while pid not in self.ended:
            answer = self._answer(max(0.0, end - time.monotonic()))
            if answer is None:
                os.killpg(pid, signal.SIGKILL)
                answer = self._answer(LIMIT_S)
                assert answer
                self.ended[answer["pid"]] = None if answer["pid"] == pid else answer["code"]
            else:
                self.ended[answer["pid"]] = answer["code"]
        output = self.outputs.pop(pid)
        files = [Path(f"{output}.{name}") for name in ("out", "err")]
        out, err = (file.read_text(errors="replace") for file in files)
        for file in files:
            file.unlink()
        return Ended(self.ended.pop(pid), out, err)

    def run(self, cwd: Path, *argv: str, **options: Any) -> Ended:  # noqa: ANN401
        """Start a command and wait for it."""
        return self.wait(self.start(cwd, *argv, **options))

    def close(self) -> None:
        """End the server."""
        if self.process:
            assert self.process.stdin
            assert self.process.stdout
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
