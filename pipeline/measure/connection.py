"""The host's side of the worker: requests out, answers or errors back, with a limit on waiting; and other programs."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pipeline.core.errors import DeviceError, InputError, SecateurError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pipeline.measure.devices import Device

PROTOCOL = 1
#: Longest time that a request which times nothing may take: starting an emulated Python takes ten seconds.
PATIENCE_S = 300.0
#: The host wakes up this often to notice an interruption.
_POLL_S = 0.2
ENDING_S = 5.0
SHOWN = 200
_STDERR_LINES = 5
KINDS: dict[str, type[SecateurError]] = {"InputError": InputError, "DeviceError": DeviceError}


class Connection:
    """A worker that has been started on a device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.process = device.start()
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._errors: list[bytes] = []
        self._readers = [
            _reader(self.process.stdout, self._answers.put, at_end=lambda: self._answers.put(b"")),
            _reader(self.process.stderr, self._errors.append),
        ]

    def __enter__(self) -> Self:
        """Return the connection."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the worker."""
        self.close()

    def request(
        self,
        op: str,
        *,
        patience_s: float = PATIENCE_S,
        **arguments: Any,  # noqa: ANN401 - whatever JSON can hold
    ) -> Any:  # noqa: ANN401
        """Ask the worker and return its answer.

        Raises:
            InputError: a file cannot be used; the worker's own words.
            DeviceError: the worker ended, answered with something that is no answer, or not within `patience_s`.
            StageError: a runtime failed while it was running a file.
        """
        line = json.dumps({"op": op, **arguments}, allow_nan=False).encode() + b"\n"
        watch = threading.Timer(patience_s, self.process.kill)  # a worker that reads no more would keep us writing
        watch.daemon = True
        watch.start()
        try:
            self._write(line)
        except (BrokenPipeError, ValueError) as error:
            raise self._ended(op) from error
        finally:
            watch.cancel()
            watch.join()
        try:
            line = self._line(op, patience_s)
        except BaseException:  # a late answer would be taken for the next one's
            self._kill()
            raise
        return self._understood(op, line)

    def close(self) -> None:
        """End the worker: its stdin is closed, and it is killed if it does not follow at once."""
        with contextlib.suppress(BrokenPipeError):
            if self.process.stdin:
                self.process.stdin.close()
        with contextlib.suppress(Exception):
            self.process.wait(0.5)
        self._kill()
        for reader in self._readers:
            reader.join(ENDING_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    def _kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that the kernel holds, as a broken disk may
            self.process.wait(ENDING_S)

    def _write(self, line: bytes) -> None:
        if self.process.stdin is None:
            raise BrokenPipeError
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def _line(self, op: str, patience_s: float) -> bytes:
        end = time.monotonic() + patience_s
        while True:
            try:
                line = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() > end:
                    raise DeviceError(
                        f"{self.device.url}: no answer to {op} within {patience_s:.0f} s; is the device alive?"
                    ) from None
                continue
            if not line:
                raise self._ended(op)
            return line

    def _understood(self, op: str, line: bytes) -> Any:  # noqa: ANN401
        try:
            answer = json.loads(line)
            if "ok" in answer:
                return answer["ok"]
            kind, message = answer["error"]["kind"], answer["error"]["message"]
        except (ValueError, KeyError, TypeError) as error:
            found = line.decode(errors="replace").strip()[:SHOWN]
            raise DeviceError(
                f"{self.device.url}: found {found!r} where the worker's answer to {op} was expected; a login shell "
                "that prints, or another program, interferes: make it silent"
            ) from error
        raise KINDS.get(kind, StageError)(message)

    def _ended(self, op: str) -> DeviceError:
        """Say that the worker is gone, with its exit code and its last words."""
        with contextlib.suppress(Exception):
            self.process.wait(ENDING_S)
        self._readers[1].join(ENDING_S)
        words = b"".join(self._errors).decode(errors="replace").strip().splitlines()[-_STDERR_LINES:]
        told = "\n  ".join(words) if words else "it printed nothing"
        code = self.process.poll()
        return DeviceError(f"{self.device.url}: the worker ended during {op} (exit code {code}):\n  {told}")


def _reader(stream: Any, keep: Callable[[bytes], object], at_end: Callable[[], None] | None = None) -> threading.Thread:  # noqa: ANN401
    """Start a thread that passes on the lines of a pipe, so that neither side ever waits for the other."""

    def read() -> None:
        for line in stream:
            keep(line)
        if at_end:
            at_end()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def connect(device: Device, *, priority: bool = False) -> tuple[Connection, dict[str, Any]]:
    """Start a worker on a device and return it with what it says of itself; `priority` as in the worker's `hello`.

    Raises:
        DeviceError: it cannot be started or is of another version.
    """
    connection = Connection(device)
    try:
        told: dict[str, Any] = connection.request("hello", priority=priority)
    except BaseException:
        connection.close()
        raise
    if told["protocol"] != PROTOCOL:
        connection.close()
        raise DeviceError(f"{device.url}: its worker speaks protocol {told['protocol']}, expected {PROTOCOL}")
    return connection, told


class ProgramResult(NamedTuple):
    """How a program ended: its exit code, what it printed, and what it said on stderr."""

    code: int
    out: str
    words: str


def run_program(device: Device, script: str, *arguments: str, limit_s: float) -> ProgramResult:
    """Run Python on a file that was pushed to a device, to its end; nothing goes on here afterwards.

    Raises:
        DeviceError: it cannot be started, or does not end within `limit_s`.
    """
    with device.run(script, *arguments) as process:
        try:
            out, words = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(
                f"{device.url}: {script.rpartition('/')[2]} did not end within {limit_s:.0f} s; is the device alive?"
            ) from error
        finally:
            process.kill()
    return ProgramResult(process.returncode, out.decode(errors="replace"), words.decode(errors="replace"))
