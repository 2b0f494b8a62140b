"""What the worker can do: describe the device, open files, time blocks of inferences, count instructions."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import platform
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.core.errors import DeviceError, InputError
from pipeline.core.runtimes import RUNTIMES
from pipeline.measure import clock
from pipeline.measure.machine import machine_fingerprint
from pipeline.measure.runtimes import open_session
from pipeline.measure.worker_decode import DecodingSession, decoding_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.measure.runtimes import InputPort, Session

PROTOCOL = 1
#: Packages whose versions the host wants to know.
PACKAGES = ("numpy", *(facts.package for facts in RUNTIMES.values()))
#: Heap blocks up to this size come from the same arena as a runtime's own small ones, and so move them.
_HEAP_OFFSET_BYTES = 65_536
#: Of larger outputs, this many numbers are told: enough to see that two networks differ.
TOLD = 65_536
#: Option of prctl: the signal that this process gets when the thread that started it ends.
_PARENT_DEATH_SIGNAL = 1
#: Calls of prctl with this option mark the instruction counter's place; the kernel refuses it and does nothing.
_MARK = 0x0C0FFEE5
_KILOBYTE = 1024
#: Inferences of one subject before it is another's turn, within a round.
_TURN = 4
#: Inferences before counting: Python rewrites its own code while it runs for the first times.
WARM_UP = 8
_MOST_URGENT = -20
#: Linux shares time between sessions first, and only then between their processes.
AUTOGROUP = Path("/proc/self/autogroup")


def open_file(file: Mapping[str, Any]) -> Session:
    """Load a file as a request describes it: path, runtime, threads, batch, shapes, and the sha256 that it must have.

    Raises:
        InputError: the runtime cannot load it.
        DeviceError: its content is not what the host sent.
    """
    path = Path(file["path"])
    for name, digest in file["sha256"].items():
        if hashlib.sha256((path.parent / name).read_bytes()).hexdigest() != digest:
            raise DeviceError(
                f"{path.parent / name} differs from the file that was sent: remove it there and try again"
            )
    shapes = {name: tuple(shape) for name, shape in file["shapes"].items()}
    return open_session(file["runtime"], path, threads=file["threads"], batch=file["batch"], shapes=shapes)


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, even while native code lets no thread of Python run.

    Where there is no such call the end of stdin has to do, as it does on devices.
    """
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that call
        os._exit(0)


def inputs_of(session: Session, seed: int) -> list[Any]:
    """Return the samples that a session has with it, else inputs that are made."""
    return session.samples if isinstance(session, DecodingSession) else make_inputs(session.inputs, seed)


def make_inputs(ports: Sequence[InputPort], seed: int) -> list[Any]:
    """Return inputs for one inference: standard normal numbers, or zeros and ones where a type is whole.

    They depend on shapes and seed alone, so that two networks of the same inputs see the same numbers.
    """
    import numpy as np  # noqa: PLC0415 - a device without numpy can still say hello

    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(port.shape, dtype=np.float32).astype(port.dtype)
        if port.dtype.startswith("float")
        else rng.integers(0, 2, port.shape).astype(port.dtype)
        for port in ports
    ]


class Bench:
    """The worker's state: the sessions of the current re-creation, and their inputs."""

    def __init__(self, opener: Callable[[Mapping[str, Any]], Session]) -> None:
        self._opener = opener
        self._sessions: dict[int, tuple[Session, list[Any]]] = {}
        self._heap: list[bytearray] = []
        self._random = random.Random(0)  # noqa: S311 - sizes of heap blocks, no secret
        self._ticks = clock.processor_times()

    def hello(self, *, priority: bool = False) -> dict[str, Any]:
        """Describe the device. Nothing is loaded for it. With `priority` this process goes first where that is allowed.

        Threads that a runtime makes later inherit it. What is in force then is told, whatever was asked for.
        """
        if priority:
            _go_first()
        affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        return {
            "protocol": PROTOCOL,
            "python": platform.python_version(),
            "executable": sys.executable,
            "packages": {name: _installed(name) for name in PACKAGES},
            "fingerprint": machine_fingerprint(),
            "in_force": {"nice": os.nice(0), "session nice": _session_nice(), "affinity": affinity},
        }

    def _open(self, file: Mapping[str, Any]) -> Session:
        session = self._opener(file)
        return (
            decoding_session(session, file["decoding"], resized=file.get("shapes", {}))
            if "decoding" in file
            else session
        )

    def check(self, file: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Infer once and tell what came out: shape, whether it is finite, its range, and numbers to compare."""
        session = self._open(file)
        outputs = session.run(*inputs_of(session, seed))
        return {
            "version": session.version,
            "options": dict(session.options),
            "inputs": [asdict(port) for port in session.inputs],
            "outputs": [_told(each) for each in outputs],
        }

    def weigh(self, file: Mapping[str, Any], seed: int) -> dict[str, int]:
        """Return the peak resident bytes of a process that loads this file alone and infers twice.

        The process is a fork of this one, made before any runtime is loaded here, and so has only its own.
        """
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _weigh_and_exit(lambda: self._open(file), seed, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            content = stream.read()
        _, status = os.waitpid(child, 0)
        if not content:
            code = os.waitstatus_to_exitcode(status)
            raise DeviceError(f"{file['path']}: loading it ended the process (code {code}): too little memory?")
        told: dict[str, int] = json.loads(content)
        return told

    def create(self, subject: int, file: Mapping[str, Any], seed: int) -> dict[str, int]:
        """Load a subject behind a heap block of random size, and infer once."""
        self._heap.append(bytearray(self._random.randrange(_HEAP_OFFSET_BYTES)))
        begun_ns = perf_counter_ns()
        session = self._open(file)
        loaded_ns = perf_counter_ns()
        inputs = inputs_of(session, seed)
        ready_ns = perf_counter_ns()
        session.run(*inputs)
        self._sessions[subject] = (session, inputs)
        return {"load_ns": loaded_ns - begun_ns, "first_ns": perf_counter_ns() - ready_ns}

    def infer(self, subject: int, stored: Mapping[str, str], start: int) -> list[list[dict[str, Any]]]:
        """Infer once on stored samples from `start` on; tell the outputs of each of the batch.

        `stored` has a .npy file [N, ...] for each input by name. The batch is filled up from the first sample on.
        `sha256` is that of an output's bytes in its own type.

        Raises:
            InputError: the network takes other inputs.
        """
        import numpy as np  # noqa: PLC0415 - a device without numpy can still say hello

        session, _ = self._sessions[subject]
        names = [port.name for port in session.inputs]
        if stored.keys() != set(names):
            raise InputError(f"the network takes {', '.join(names)}; found {', '.join(stored)}")
        batch = session.inputs[0].shape[0]
        calls = [
            np.take(np.load(stored[port.name], mmap_mode="r"), range(start, start + batch), axis=0, mode="wrap")
            for port in session.inputs
        ]
        given = [call.astype(port.dtype) for call, port in zip(calls, session.inputs, strict=True)]
        outputs = [np.asarray(each) for each in session.run(*given)]
        parts = [[each[i] if each.shape[:1] == (batch,) else each for each in outputs] for i in range(batch)]
        return [
            [{**_told(each), "sha256": hashlib.sha256(each.tobytes()).hexdigest()} for each in image] for image in parts
        ]

    def block(self, subject: int, inferences: int, pause_ns: int = 0) -> dict[str, Any]:
        """Infer `inferences` times, with a pause of `pause_ns` before each."""
        return asdict(self._time(subject, inferences, pause_ns))

    def _time(self, subject: int, inferences: int, pause_ns: int) -> clock.Readings:
        session, inputs = self._sessions[subject]
        return clock.time_block(lambda: session.run(*inputs), inferences, pause_ns)

    def rounds(
        self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int, pause_ns: int = 0
    ) -> list[list[dict[str, Any]]]:
        """Time rounds in the given orders until there are no more or `limit_ns` is over; blocks in these orders.

        Within a round the subjects take turns of about `_TURN` inferences, in the given order and back again: load and
        frequency change within milliseconds, and what acts on both sides of a ratio cancels.
        """
        done: list[list[dict[str, Any]]] = []
        end_ns = perf_counter_ns() + limit_ns
        passes = -(-max(sizes) // _TURN)
        for order in orders:
            taken: dict[int, list[clock.Readings]] = {subject: [] for subject in order}
            for each in range(passes):
                for subject in order if each % 2 == 0 else reversed(order):
                    share = sizes[subject] * (each + 1) // passes - sizes[subject] * each // passes
                    if share:
                        taken[subject].append(self._time(subject, share, pause_ns))
            done.append([asdict(clock.joined(taken[subject])) for subject in order])
            if perf_counter_ns() >= end_ns:
                break
        return done

    def count(self, subject: int, repeats: int) -> dict[str, int]:
        """Infer `repeats` times with a mark before and after each, for an instruction counter around this process."""
        session, inputs = self._sessions[subject]
        prctl = ctypes.CDLL(None).prctl
        for number in range(-WARM_UP, repeats):
            prctl(_MARK if number >= 0 else 0, 2 * number)
            session.run(*inputs)
            prctl(_MARK if number >= 0 else 0, 2 * number + 1)
        return {"repeats": repeats}

    def release(self) -> None:
        """Let go of all sessions."""
        self._sessions.clear()
        self._heap.clear()

    def conditions(self) -> dict[str, float | None]:
        """Return load, frequency and temperature now, and the steal since the last call."""
        before, self._ticks = self._ticks, clock.processor_times()
        return {
            "load": clock.load_average(),
            "steal": clock.steal_share(before, self._ticks),
            "frequency_mhz": clock.frequency_mhz(),
            "temperature_c": clock.temperature_c(),
        }

    def sleep(self, seconds: float) -> None:
        """Do nothing, so that a board can cool down."""
        time.sleep(seconds)

    #: What a request may ask for.
    OPERATIONS: ClassVar[Mapping[str, Callable[..., Any]]] = {
        each.__name__: each
        for each in (hello, check, weigh, create, infer, block, rounds, count, release, conditions, sleep)
    }


def _go_first() -> None:
    """Ask the scheduler for the highest normal priority, for this process and for its session among others."""
    with suppress(PermissionError):
        os.nice(_MOST_URGENT)
    with suppress(OSError):
        AUTOGROUP.write_text(str(_MOST_URGENT))


def _session_nice() -> int | None:
    """Return the priority of this process's session where the scheduler groups by session, else None."""
    with suppress(OSError):
        words = AUTOGROUP.read_text().split()  # none where a control group takes the place of the session
        return int(words[-1]) if words else None
    return None


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _told(output: Any) -> dict[str, Any]:  # noqa: ANN401 - an array; numpy is not imported here
    """Describe one output; of a large one every n-th number is told, the same n for the same size."""
    import numpy as np  # noqa: PLC0415 - a device without numpy can still say hello

    values = np.asarray(output, dtype=np.float32).ravel()
    step = -(-values.size // TOLD) or 1
    finite = bool(np.isfinite(values).all())
    return {
        "shape": list(np.shape(output)),
        "finite": finite,
        "largest": float(np.abs(values).max(initial=0)) if finite else None,
        "values": base64.b64encode(np.ascontiguousarray(values[::step]).astype("<f4").tobytes()).decode(),
    }


def _weigh_and_exit(load: Callable[[], Session], seed: int, writer: int) -> None:
    """Load, infer twice, write the peak memory to a pipe and end this forked process at once."""
    end_with_parent()
    try:
        session = load()
        inputs = inputs_of(session, seed)
        session.run(*inputs)
        session.run(*inputs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILOBYTE
        os.write(writer, json.dumps({"peak_rss_bytes": peak}, allow_nan=False).encode())
    except MemoryError:
        pass  # told by the end of the process
    except Exception:  # noqa: BLE001 - whatever it is, `check` says why
        os.write(writer, b"{}")
    finally:
        os._exit(0)
