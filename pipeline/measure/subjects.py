"""Subjects on their way into the workers: brought there, weighed, run once, and compared with the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import DeviceError, InputError
from pipeline.core.printable import printable_text
from pipeline.core.runtimes import RUNTIMES
from pipeline.measure.connection import Connection, connect
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.installed import missing_packages, missing_text
from pipeline.measure.model_files import ModelFiles, model_files
from pipeline.measure.outputs import compare_outputs, require_sound
from pipeline.results.measurement import SubjectSamples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from pipeline.core.stage import Progress, Runtime
    from pipeline.measure.decoding import Decoding
    from pipeline.measure.devices import Device
    from pipeline.results.measurement import OutputCheck, SessionSamples, TimeScope

#: A module that serves as the worker where a torch network is measured: it knows how to load one.
_TORCH_WORKER = "pipeline.network.worker"
#: Longest wait for a request that infers: a round of slow networks on a slow board.
PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Subject:
    """Something to measure: a file, or for the torch runtime the folder of a torch artifact.

    `tolerance`, where given, is the largest difference allowed between its outputs and those of the first subject,
    relative to the largest output of the first. A pruned or quantised network computes something else, so that by
    default its outputs need only be finite and of the same shape. `threads` and `device` (an index into the devices)
    are its own where they differ from the others'. `outputs` are the names of its outputs, for a task to decode them.
    `shapes` are those of its inputs where they are not the terms', and `size` is what they are called. `decoding` has
    its own samples where its images have another size than those of the terms.
    """

    label: str
    runtime: Runtime
    source: Path
    digest: str
    tolerance: float | None = None
    threads: int | None = None
    device: int = 0
    outputs: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    size: str = ""
    decoding: Decoding | None = None


@dataclass(frozen=True)
class MeasureTerms:
    """On what terms all subjects are run. `pause_ns` is idle time before each inference (a duty cycle).

    With `measure_peak_memory` each file is also loaded in a process of its own, for its peak memory. With `decoding`
    every call runs on its samples and decodes the outputs too (`time_scope: model+decode`).
    """

    threads: int
    batch: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pause_ns: int = 0
    priority: bool = True
    measure_peak_memory: bool = True
    decoding: Decoding | None = None

    @property
    def time_scope(self) -> TimeScope:
        """What is timed."""
        return "model+decode" if self.decoding else "model"


@dataclass(frozen=True)
class OpenSubject:
    """What is known of a subject after its check: how to ask the worker for it, and what it is."""

    connection: Connection
    request: dict[str, Any]
    facts: dict[str, Any]
    hello: dict[str, Any]
    size_bytes: int
    peak_rss_bytes: int | None
    check: OutputCheck | None


def local_device(subjects: Sequence[Subject]) -> LocalDevice:
    """Return this machine, with a worker that loads torch where a subject needs it."""
    torch = any(subject.runtime == "torch" for subject in subjects)
    return LocalDevice(module=_TORCH_WORKER if torch else None)


def start_worker(stack: ExitStack, device: Device, terms: MeasureTerms) -> tuple[Connection, dict[str, Any]]:
    """Start the worker of a device until the stack closes; return it with what it says of itself."""
    connection, hello = connect(device, priority=terms.priority)
    stack.callback(connection.close)
    return connection, hello


def open_subjects(
    subjects: Sequence[Subject],
    terms: MeasureTerms,
    workers: Sequence[tuple[Connection, dict[str, Any]]],
    *,
    seed: int,
    progress: Progress,
) -> list[OpenSubject]:
    """Bring every subject to its device, weigh it, run it once on the same inputs and compare what comes out.

    Raises:
        InputError: there is no subject, a file cannot be read, or the inputs of two subjects differ in shape.
        OutputsError: outputs are not finite, differ in shape, or by more than the tolerance.
        DeviceError: a device lacks a runtime, or does not answer.
    """
    if not subjects:
        raise InputError("there is nothing to measure; expected at least one file")
    payloads = [model_files(subject.source, subject.runtime) for subject in subjects]
    _require_installed(subjects, workers)
    requests = [
        _request(subject, brought, terms, workers[subject.device][0].device)
        for subject, brought in zip(subjects, payloads, strict=True)
    ]
    # Before any runtime is loaded in a worker: each is weighed in a process that has that runtime and file alone.
    weights: list[int | None] = []
    for number, (subject, request) in enumerate(zip(subjects, requests, strict=True)):
        progress.update(number, 2 * len(subjects), "measuring peak memory")
        worker = workers[subject.device][0]
        weights.append(_peak_memory(worker, request, seed) if terms.measure_peak_memory else None)
    opened: list[OpenSubject] = []
    for number, (subject, request) in enumerate(zip(subjects, requests, strict=True)):
        progress.update(len(subjects) + number, 2 * len(subjects), "checking the outputs")
        connection, hello = workers[subject.device]
        facts = connection.request("check", patience_s=PATIENCE_S, file=request, seed=seed)
        require_sound(subject.label, subject.runtime, facts["outputs"])
        check = None
        first = next(place for place, each in enumerate(subjects) if each.size == subject.size)
        if first < number:
            check = compare_outputs(subjects[first].label, opened[first].facts, subject.label, facts, subject.tolerance)
        unchecked = {**request, "sha256": {}}
        opened.append(
            OpenSubject(connection, unchecked, facts, hello, payloads[number].size_bytes, weights[number], check)
        )
    return opened


def _peak_memory(worker: Connection, request: dict[str, Any], seed: int) -> int | None:
    weight: int | None = worker.request("weigh", file=request, seed=seed).get("peak_rss_bytes")
    return weight


def _require_installed(subjects: Sequence[Subject], workers: Sequence[tuple[Connection, dict[str, Any]]]) -> None:
    """Refuse a device that lacks a runtime or numpy, with the line that installs it there."""
    for subject in subjects:
        connection, hello = workers[subject.device]
        missing = missing_packages(hello, ("numpy", RUNTIMES[subject.runtime].package))
        if missing:
            raise DeviceError(missing_text(connection.device.url, hello, missing))


def _request(subject: Subject, brought: ModelFiles, terms: MeasureTerms, device: Device) -> dict[str, Any]:
    places = device.push({f"{brought.digest}/{name}": path for name, path in brought.files.items()})
    decoding = subject.decoding or terms.decoding
    return {
        "path": places[f"{brought.digest}/{brought.main}"],
        "sha256": brought.sha256,
        "runtime": subject.runtime,
        "threads": subject.threads or terms.threads,
        "batch": terms.batch,
        "shapes": {name: list(shape) for name, shape in (subject.shapes or terms.shapes).items()},
        **({"decoding": decoding.sent_to(device, subject.outputs)} if decoding else {}),
    }


def subject_samples(
    subject: Subject,
    opened: OpenSubject,
    sessions: tuple[SessionSamples, ...],
    instructions: tuple[tuple[int, ...], ...] = (),
) -> SubjectSamples:
    """Return what is kept of a subject: what it is, on what terms it ran, and its samples."""
    facts = opened.facts
    return SubjectSamples(
        label=printable_text(subject.label),  # JSON holds no bytes that are no text
        path=printable_text(str(subject.source)),
        runtime=subject.runtime,
        size=subject.size,
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
        instructions=instructions,
    )
