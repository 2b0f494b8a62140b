"""Runs one network in a process of its own, with limits of time and memory, and keeps what it had found when it ended.

The parent has imported the libraries and forks, so that seconds and memory are the network's own.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import resource
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from torch import Tensor, nn

#: Address space that a network may take.
MEMORY_BYTES = 14 << 30
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
CHARACTERS = 400
#: Seconds of the clock that are waited for each second of CPU time.
PATIENCE = 6


class Record:
    """What has been found about one network so far. Every change is sent to the parent at once."""

    def __init__(self, pipe: Connection, **start: Any) -> None:  # noqa: ANN401 (JSON)
        """Take the pipe, and what is known before the start."""
        self.values: dict[str, Any] = {**start, "seconds": {}}
        self._pipe = pipe

    def add(self, **values: Any) -> None:  # noqa: ANN401 (JSON)
        """Add values."""
        self.values |= values
        self._pipe.send(self.values)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Take a step's CPU seconds; its name stays in the record while it runs, and for good when it fails."""
        self.add(phase=name)
        start = time.process_time()
        yield
        self.values["seconds"][name] = round(time.process_time() - start, 3)
        self.values.pop("phase")


def measure(work: Callable[[Record], None], limit_s: int, **start: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """Run `work` in a forked process and return its record.

    `limit_s` are seconds of CPU time, so that what else the machine does decides nothing. `status` is "done", "error"
    (an exception, with its text), "limit" or "killed". For all but the first, `phase` is the step that did not end.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, limit_s, theirs, start))
    process.start()
    theirs.close()
    found: dict[str, Any] = {**start, "status": "killed"}
    deadline = time.monotonic() + PATIENCE * limit_s
    with contextlib.suppress(EOFError):
        while ours.poll(max(0.0, deadline - time.monotonic())):
            found = ours.recv()
        process.kill()
    process.join()
    return found | ({"status": "limit"} if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL) else {})


def _child(work: Callable[[Record], None], limit_s: int, pipe: Connection, start: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
    torch.set_num_threads(1)
    record = Record(pipe, **start, status="killed")  # until it says otherwise
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            work(record)
    except Exception as error:  # noqa: BLE001 (a failure is a result of this benchmark)
        record.add(status="error", error=f"{type(error).__name__}: {error}"[:CHARACTERS])
    else:
        record.add(status="done")
    pipe.close()


def reset_peak() -> int:
    """Forget the largest resident memory of this process so far and return its present one, bytes. Linux alone."""
    CLEAR.write_text("5")
    return _memory("VmRSS")


def peak() -> int:
    """Return the largest resident memory since `reset_peak`, bytes."""
    return _memory("VmHWM")


def _memory(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) << 10


def parameter_bytes(model: nn.Module) -> int:
    """Return the size of the parameters."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())


def leaves(result: object) -> tuple[Tensor, ...]:
    """Return the tensors of a network's output, in order."""
    return tuple(leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))  # noqa: SLF001 (torch's own flattening)
