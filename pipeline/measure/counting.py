"""Instructions of single inferences on an emulated processor.

A count knows no caches, no clock rate and no other load: it repeats to within 0.1 % (0.054 % were seen)
and compares two builds of one network well. It is no latency and never turned into one.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING

from pipeline.core.errors import DeviceError
from pipeline.core.stage import SilentProgress
from pipeline.measure.devices.instructions import read_marks
from pipeline.measure.subjects import PATIENCE_S, open_subjects, start_worker, subject_samples
from pipeline.results.measurement import Measurement, SamplingPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress
    from pipeline.measure.devices import Device
    from pipeline.measure.subjects import MeasureTerms, OpenSubject, Subject

#: New processes, and inferences counted in each: single counts have outliers of a few percent, their least has not.
PROCESSES = 2
REPEATS = 5


def count_instructions(
    subjects: Sequence[Subject],
    terms: MeasureTerms,
    *,
    device: Device,
    counts: Path,
    seed: int,
    ready: Callable[[Measurement], None] | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Check what the subjects compute, then count the instructions of single inferences in several processes.

    `counts` is the file that the device writes its marks to.

    Raises:
        InputError: a file cannot be read, or the inputs of two subjects differ in shape.
        OutputsError: outputs are not finite, differ in shape, or by more than the tolerance.
        DeviceError: the emulator cannot be started, or the worker ended.
    """
    progress = progress or SilentProgress()
    found: list[list[tuple[int, ...]]] = [[] for _ in subjects]
    begun = perf_counter()
    for process in range(PROCESSES):
        with ExitStack() as stack:
            worker = start_worker(stack, device, terms)
            opened = open_subjects(subjects, terms, [worker], seed=seed, progress=progress)
            if ready and process == 0:
                ready(_measurement(subjects, opened, terms, seed, found, 0.0))
            for number, each in enumerate(opened):
                done = process * len(subjects) + number
                progress.update(done, PROCESSES * len(subjects), "counting instructions")
                found[number].append(_count(each, number, counts, seed))
    progress.update(1, 1, "counting instructions")
    return _measurement(subjects, opened, terms, seed, found, perf_counter() - begun)


def _count(opened: OpenSubject, subject: int, counts: Path, seed: int) -> tuple[int, ...]:
    worker = opened.connection
    worker.request("create", patience_s=PATIENCE_S, subject=subject, file=opened.request, seed=seed)
    before = len(read_marks(counts))
    worker.request("count", patience_s=PATIENCE_S, subject=subject, repeats=REPEATS)
    worker.request("release")
    marks = [executed for _, executed in read_marks(counts)[before:]]
    if len(marks) != 2 * REPEATS:
        raise DeviceError(f"{worker.device.url}: found {len(marks)} marks of the counter, expected {2 * REPEATS}")
    return tuple(after - start for start, after in zip(marks[::2], marks[1::2], strict=True))


def _measurement(
    subjects: Sequence[Subject],
    opened: Sequence[OpenSubject],
    terms: MeasureTerms,
    seed: int,
    counts: Sequence[Sequence[tuple[int, ...]]],
    seconds: float,
) -> Measurement:
    return Measurement(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        batch=terms.batch,
        seed=seed,
        in_force=opened[0].hello["in_force"],
        plan=SamplingPlan(budget_s=max(seconds, 1.0)),
        seconds=seconds,
        stopped="sessions",
        conditions=(),
        subjects=tuple(
            subject_samples(subject, each, (), tuple(found))
            for subject, each, found in zip(subjects, opened, counts, strict=True)
        ),
    )
