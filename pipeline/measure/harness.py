"""Measures files against each other: checks what they compute, then times them interleaved in a worker."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import DeviceError, InputError
from pipeline.core.measurement import Conditions, Measurement, SamplingPlan, SubjectSamples
from pipeline.core.stage import SilentProgress
from pipeline.measure.clock import Readings
from pipeline.measure.connection import Connection, connect
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.installed import missing_packages, missing_text
from pipeline.measure.outputs import compare_outputs, require_sound
from pipeline.measure.payload import Payload, payload
from pipeline.measure.sampling import Created, sample
from pipeline.measure.statistics import is_precise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.core.measurement import OutputCheck, SessionSamples, Stop
    from pipeline.core.stage import Progress, Runtime
    from pipeline.measure.devices import Device
    from pipeline.measure.sampling import Samples

#: A module that serves as the worker where a torch network is measured: it knows how to load one.
TORCH_WORKER = "pipeline.torch_worker"
#: Longest wait for a request that infers: a round of slow networks on a slow board.
PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Subject:
    """Something to measure: a file, or for the torch runtime the folder of a torch artifact.

    `tolerance`, where given, is the largest difference allowed between its outputs and those of the first subject,
    relative to the largest output of the first. A pruned or quantised network computes something else, so that by
    default its outputs need only be finite and of the same shape. `threads` and `device` (an index into the devices)
    are its own where they differ from the others'.
    """

    label: str
    runtime: Runtime
    source: Path
    digest: str
    tolerance: float | None = None
    threads: int | None = None
    device: int = 0


@dataclass(frozen=True)
class Terms:
    """On what terms all subjects are run. `pause_ns` is idle time before each inference (a duty cycle).

    With `weigh` each file is also loaded in a process of its own, for its peak memory.
    """

    threads: int = 1
    batch: int = 1
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pause_ns: int = 0
    priority: bool = True
    weigh: bool = True


@dataclass(frozen=True)
class _Opened:
    """What is known of a subject after its check: how to ask the worker for it, and what it is."""

    connection: Connection
    request: dict[str, Any]
    facts: dict[str, Any]
    hello: dict[str, Any]
    size_bytes: int
    peak_rss_bytes: int | None
    check: OutputCheck | None


class WorkerRunner:
    """The `BlockRunner` of a measurement: every subject lives in the worker of its device."""

    def __init__(self, opened: Sequence[_Opened], *, pause_ns: int, seed: int) -> None:
        """Keep what was opened; nothing is loaded yet."""
        self._opened = opened
        self._pause_ns = pause_ns
        self._seed = seed
        self._connections = list({id(each.connection): each.connection for each in opened}.values())

    def create(self, subject: int) -> Created:
        """Load a subject and infer once."""
        return Created(**self._ask(subject, "create", file=self._opened[subject].request, seed=self._seed))

    def block(self, subject: int, inferences: int) -> Readings:
        """Infer `inferences` times."""
        return Readings(**self._ask(subject, "block", inferences=inferences, pause_ns=self._pause_ns))

    def rounds(self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int) -> list[list[Readings]]:
        """Time rounds: in one request where all subjects are in one worker, else with the workers taking turns."""
        if len(self._connections) == 1:
            found = self._connections[0].request(
                "rounds",
                patience_s=PATIENCE_S,
                orders=orders,
                sizes=sizes,
                limit_ns=limit_ns,
                pause_ns=self._pause_ns,
            )
            return [[Readings(**block) for block in blocks] for blocks in found]
        done: list[list[Readings]] = []
        end_ns = self.now_ns() + limit_ns
        for order in orders:
            done.append([self.block(subject, sizes[subject]) for subject in order])
            if self.now_ns() >= end_ns:
                break
        return done

    def release(self) -> None:
        """Let go of all sessions; a worker that is gone has let go of its own."""
        for connection in self._connections:
            if connection.process.poll() is None:
                connection.request("release")

    def now_ns(self) -> int:
        """Return the time on the host's performance counter."""
        return perf_counter_ns()

    def conditions(self) -> Conditions:
        """Return the state of the first subject's device since the last call."""
        return Conditions(**self._connections[0].request("conditions"))

    def _ask(self, subject: int, op: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        connection = self._opened[subject].connection
        return connection.request(op, patience_s=PATIENCE_S, subject=subject, **arguments)


def measure(
    subjects: Sequence[Subject],
    terms: Terms,
    plan: SamplingPlan,
    *,
    seed: int,
    devices: Sequence[Device] = (),
    stop: Callable[[Measurement], Stop | None] | None = None,
    ready: Callable[[Measurement], None] | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Check what the subjects compute, then time all of them interleaved for about the plan's budget.

    The first subject in each runtime is the baseline there. All sessions of one re-creation are in memory at once.
    `stop` is asked at the plan's looks, with what was measured so far; without it sampling stops when every speedup
    is known to the plan's width. `ready` is called before timing, with everything but samples: it may refuse.

    Raises:
        InputError: there is no subject, a file cannot be read, or the inputs of two subjects differ in shape.
        OutputsError: outputs are not finite, differ in shape, or by more than the tolerance.
        DeviceError: a device cannot be reached, or went away in the middle: then `partial` has what was measured.
    """
    if not subjects:
        raise InputError("there is nothing to measure; expected at least one file")
    progress = progress or SilentProgress()
    with ExitStack() as stack:
        workers = [_worker(stack, device, terms) for device in devices or (_local(subjects),)]
        opened = _check(subjects, terms, workers, seed=seed, progress=progress)
        in_force = workers[0][1]["in_force"]
        progress.note(f"measuring with {terms.threads} thread(s), batch {terms.batch}, {_text(in_force)}")

        def gather(samples: Samples, **found: Any) -> Measurement:  # noqa: ANN401 - fields of Measurement
            content = {"seconds": 0.0, "stopped": "budget", "conditions": (), **found}
            return Measurement(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                batch=terms.batch,
                pause_ns=terms.pause_ns,
                seed=seed,
                in_force=in_force,
                plan=plan,
                subjects=tuple(map(_samples, subjects, opened, samples)),
                **content,
            )

        if ready:
            ready(gather(((),) * len(subjects)))
        sampled = sample(
            WorkerRunner(opened, pause_ns=terms.pause_ns, seed=seed),
            len(subjects),
            plan=plan,
            seed=seed,
            stop=lambda samples: (stop or _precise)(gather(samples)),
            progress=progress,
        )
    found = gather(sampled.samples, seconds=sampled.seconds, stopped=sampled.stopped, conditions=sampled.conditions)
    if sampled.error:
        sampled.error.partial = found
        raise sampled.error
    return found


def _precise(measurement: Measurement) -> Stop | None:
    found = is_precise(measurement.subjects, plan=measurement.plan, seed=measurement.seed)
    return "precise" if found else None


def _local(subjects: Sequence[Subject]) -> LocalDevice:
    """Return this machine, with a worker that loads torch where a subject needs it."""
    torch = any(subject.runtime == "torch" for subject in subjects)
    return LocalDevice(module=TORCH_WORKER if torch else None)


def _worker(stack: ExitStack, device: Device, terms: Terms) -> tuple[Connection, dict[str, Any]]:
    stack.callback(device.close)
    connection, hello = connect(device, priority=terms.priority)
    stack.callback(connection.close)
    return connection, hello


def _check(
    subjects: Sequence[Subject],
    terms: Terms,
    workers: Sequence[tuple[Connection, dict[str, Any]]],
    *,
    seed: int,
    progress: Progress,
) -> list[_Opened]:
    """Bring every subject to its device, weigh it, run it once on the same inputs and compare what comes out."""
    payloads = [payload(subject.source, subject.runtime) for subject in subjects]
    _require_installed(subjects, workers)
    requests = [
        _request(subject, brought, terms, workers[subject.device][0].device)
        for subject, brought in zip(subjects, payloads, strict=True)
    ]
    # Before any runtime is loaded in a worker: each is weighed in a process that has that runtime and file alone.
    weights: list[int | None] = []
    for number, (subject, request) in enumerate(zip(subjects, requests, strict=True)):
        progress.update(number, 2 * len(subjects), "weighing the files")
        worker = workers[subject.device][0]
        weights.append(_peak_memory(worker, request, seed) if terms.weigh else None)
    opened: list[_Opened] = []
    for number, (subject, request) in enumerate(zip(subjects, requests, strict=True)):
        progress.update(len(subjects) + number, 2 * len(subjects), "checking the outputs")
        connection, hello = workers[subject.device]
        facts = connection.request("check", patience_s=PATIENCE_S, file=request, seed=seed)
        require_sound(subject.label, subject.runtime, facts["outputs"])
        check = None
        if opened:
            check = compare_outputs(subjects[0].label, opened[0].facts, subject.label, facts, subject.tolerance)
        unchecked = {**request, "sha256": {}}
        opened.append(_Opened(connection, unchecked, facts, hello, payloads[number].size_bytes, weights[number], check))
    return opened


def _peak_memory(worker: Connection, request: dict[str, Any], seed: int) -> int | None:
    weight: int | None = worker.request("weigh", file=request, seed=seed).get("peak_rss_bytes")
    return weight


def _require_installed(subjects: Sequence[Subject], workers: Sequence[tuple[Connection, dict[str, Any]]]) -> None:
    """Refuse a device that lacks a runtime or numpy, with the line that installs it there."""
    for subject in subjects:
        connection, hello = workers[subject.device]
        missing = missing_packages(hello, ("numpy", subject.runtime))
        if missing:
            raise DeviceError(missing_text(connection.device.url, hello, missing))


def _request(subject: Subject, brought: Payload, terms: Terms, device: Device) -> dict[str, Any]:
    """Push a subject's files and describe it to the worker."""
    places = device.push({f"{brought.digest}/{name}": path for name, path in brought.files.items()})
    return {
        "path": places[f"{brought.digest}/{brought.main}"],
        "sha256": brought.sha256,
        "runtime": subject.runtime,
        "threads": subject.threads or terms.threads,
        "batch": terms.batch,
        "shapes": {name: list(shape) for name, shape in terms.shapes.items()},
    }


def _samples(subject: Subject, opened: _Opened, sessions: tuple[SessionSamples, ...]) -> SubjectSamples:
    facts = opened.facts
    return SubjectSamples(
        label=subject.label,
        path=str(subject.source),
        runtime=subject.runtime,
        runtime_version=facts["version"],
        options=facts["options"],
        digest=subject.digest,
        size_bytes=opened.size_bytes,
        input_shapes={port["name"]: tuple(port["shape"]) for port in facts["inputs"]},
        threads=opened.request["threads"],
        device=opened.connection.device.url,
        fingerprint=opened.hello["fingerprint"],
        peak_rss_bytes=opened.peak_rss_bytes,
        check=opened.check,
        sessions=sessions,
    )


def _text(in_force: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in in_force.items())
