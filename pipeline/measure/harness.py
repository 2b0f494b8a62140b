"""Measures files against each other in this process: checks what they compute, then times them interleaved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import InputError, StageError
from pipeline.core.measurement import Conditions, Measurement, SamplingPlan, SubjectSamples
from pipeline.core.stage import SilentProgress
from pipeline.measure import clock
from pipeline.measure.machine import fingerprint
from pipeline.measure.runtimes import Session, open_session
from pipeline.measure.sampling import Created, sample
from pipeline.measure.statistics import is_precise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from pipeline.core.measurement import SessionSamples
    from pipeline.core.stage import Progress, Runtime
    from pipeline.measure.sampling import Samples

#: Heap blocks up to this size come from the same arena as a runtime's own small ones, and so move them.
HEAP_OFFSET_BYTES = 65_536


@dataclass(frozen=True)
class Subject:
    """Something to measure: a file, or for the torch runtime a network with the shape of its input.

    `tolerance`, where given, is the largest absolute difference allowed between its outputs and those of the
    baseline in its runtime. A pruned or quantised network computes something else, so that by default its outputs
    need only be finite and of the same shape.
    """

    label: str
    runtime: Runtime
    source: Path | nn.Module
    digest: str
    input_shape: tuple[int, ...] | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class _Opened:
    """What is known of a subject after its check."""

    version: str
    options: dict[str, str]
    input_shape: tuple[int, ...]
    outputs: list[NDArray[np.float32]]


class SessionRunner:
    """Runs blocks of real inferences: the `BlockRunner` of a measurement."""

    def __init__(
        self, subjects: Sequence[Subject], inputs_NCHW: NDArray[np.float32], *, threads: int, seed: int
    ) -> None:
        """Keep the subjects and the inputs; nothing is loaded yet."""
        self._subjects = subjects
        self._inputs_NCHW = inputs_NCHW
        self._threads = threads
        self._rng = np.random.default_rng(seed)
        self._sessions: dict[int, Session] = {}
        self._heap: list[bytearray] = []
        self._ticks = clock.processor_times()

    def create(self, subject: int) -> Created:
        """Load a subject behind a heap block of random size, and infer once."""
        self._heap.append(bytearray(int(self._rng.integers(HEAP_OFFSET_BYTES))))
        begun_ns = perf_counter_ns()
        session = _open(self._subjects[subject], self._threads, len(self._inputs_NCHW))
        loaded_ns = perf_counter_ns()
        session.run(self._inputs_NCHW)
        first_ns = perf_counter_ns() - loaded_ns
        self._sessions[subject] = session
        return Created(loaded_ns - begun_ns, first_ns)

    def block(self, subject: int, inferences: int) -> clock.Readings:
        """Infer `inferences` times without a break."""
        session = self._sessions[subject]
        return clock.time_block(lambda: session.run(self._inputs_NCHW), inferences)

    def release(self) -> None:
        """Let go of all sessions."""
        self._sessions.clear()
        self._heap.clear()

    def now_ns(self) -> int:
        """Return the time on the performance counter."""
        return perf_counter_ns()

    def conditions(self) -> Conditions:
        """Read load, frequency and temperature now, and the steal since the last call."""
        before, self._ticks = self._ticks, clock.processor_times()
        return Conditions(
            load=clock.load_average(),
            steal=clock.steal_share(before, self._ticks),
            frequency_mhz=clock.frequency_mhz(),
            temperature_c=clock.temperature_c(),
        )


def measure(
    subjects: Sequence[Subject],
    *,
    threads: int,
    batch: int,
    budget_s: float,
    seed: int,
    progress: Progress | None = None,
) -> Measurement:
    """Check what the subjects compute, then time all of them interleaved for about `budget_s` seconds.

    The first subject in each runtime is the baseline there. All sessions of one re-creation are in memory at once.

    Raises:
        InputError: there is no subject, a file cannot be read, or the inputs of two subjects differ in shape.
        StageError: outputs are not finite, differ in shape, or by more than the tolerance.
    """
    progress = progress or SilentProgress()
    plan = SamplingPlan(budget_s=budget_s)
    opened = _check(subjects, threads=threads, batch=batch, seed=seed)
    in_force = _in_force()
    progress.note(f"measuring with {threads} thread(s), batch {batch}, {_text(in_force)}")

    def gather(samples: Samples) -> tuple[SubjectSamples, ...]:
        return tuple(map(_samples, subjects, opened, samples))

    sampled = sample(
        SessionRunner(subjects, _inputs(opened[0].input_shape, seed), threads=threads, seed=seed),
        len(subjects),
        plan=plan,
        seed=seed,
        precise=lambda samples: is_precise(gather(samples), plan=plan, seed=seed),
        progress=progress,
    )
    return Measurement(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        threads=threads,
        batch=batch,
        seed=seed,
        fingerprint=fingerprint(),
        in_force=in_force,
        plan=plan,
        seconds=sampled.seconds,
        stopped=sampled.stopped,
        conditions=sampled.conditions,
        subjects=gather(sampled.samples),
    )


def _samples(subject: Subject, opened: _Opened, sessions: tuple[SessionSamples, ...]) -> SubjectSamples:
    return SubjectSamples(
        label=subject.label,
        runtime=subject.runtime,
        runtime_version=opened.version,
        options=opened.options,
        digest=subject.digest,
        input_shape=opened.input_shape,
        sessions=sessions,
    )


def _open(subject: Subject, threads: int, batch: int) -> Session:
    if isinstance(subject.source, Path):
        return open_session(subject.runtime, subject.source, threads=threads, batch=batch)
    if subject.runtime != "torch" or subject.input_shape is None:
        raise InputError(
            f"{subject.label}: a network is measured in torch with its input shape, not in {subject.runtime}"
        )
    from pipeline.measure.runtimes.torch import open_module  # noqa: PLC0415 - loads torch

    return open_module(subject.source, subject.input_shape, threads)


def _inputs(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Return the inputs of every inference: standard normal, the same for one shape and seed."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _check(subjects: Sequence[Subject], *, threads: int, batch: int, seed: int) -> list[_Opened]:
    """Run every subject once on the same inputs and compare what comes out."""
    if not subjects:
        raise InputError("there is nothing to measure; expected at least one file")
    opened: list[_Opened] = []
    for subject in subjects:
        session = _open(subject, threads, batch)
        outputs = [output.copy() for output in session.run(_inputs(session.input_shape, seed))]
        opened.append(_Opened(session.version, dict(session.options), session.input_shape, outputs))
        baseline = next(i for i, other in enumerate(subjects) if other.runtime == subject.runtime)
        _require_same_shapes(subject, opened[-1], subjects[0], opened[0])
        _require_sound(subject, outputs, opened[baseline].outputs)
    return opened


def _require_same_shapes(subject: Subject, opened: _Opened, first: Subject, expected: _Opened) -> None:
    """Refuse a subject with other inputs or outputs than the first."""
    if opened.input_shape != expected.input_shape:
        raise InputError(
            f"{subject.label} takes inputs of shape {opened.input_shape}, {first.label} of {expected.input_shape}; "
            "only networks for the same inputs can be compared"
        )
    shapes, others = ([each.shape for each in side.outputs] for side in (opened, expected))
    if shapes != others:
        raise StageError(
            f"{subject.label} in {subject.runtime} returns shapes {shapes}, {first.label} {others}; not timed"
        )


def _require_sound(
    subject: Subject, outputs: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]
) -> None:
    """Refuse to time outputs that are not finite, or farther from the baseline's than the subject's tolerance."""
    if not all(np.isfinite(each).all() for each in outputs):
        raise StageError(f"{subject.label} in {subject.runtime} returns values that are not finite; not timed")
    if subject.tolerance is None:
        return
    largest = max(float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True))
    if largest > subject.tolerance:
        raise StageError(
            f"{subject.label} in {subject.runtime} differs from its baseline by {largest:.3g}, "
            f"allowed are {subject.tolerance:.3g}; not timed"
        )


def _in_force() -> dict[str, Any]:
    """Say under which scheduling this process measures. Nothing is changed."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {"nice": os.nice(0), "affinity": affinity}


def _text(in_force: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in in_force.items())
