"""What `secateur bench FILE...` does: one file's latency, or several files against the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.core.runtimes import FORMS, form_of, load_reference
from pipeline.core.store import read_artifact
from pipeline.measure.harness import measure_subjects
from pipeline.measure.model_files import model_files
from pipeline.measure.subjects import Subject
from pipeline.results.measurement import SamplingPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress, Runtime
    from pipeline.measure.devices import Device
    from pipeline.measure.subjects import MeasureTerms
    from pipeline.results.measurement import Measurement

#: Time of a session for each file in it.
SESSION_S = 0.3


def bench_files(
    files: Sequence[Path],
    terms: MeasureTerms,
    *,
    runtime: Runtime,
    budget_s: float,
    seed: int,
    sizes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
    device: Device | None = None,
    labels: Sequence[str] = (),
    progress: Progress | None = None,
) -> Measurement:
    """Measure files in one runtime, interleaved; the first is the baseline of the others.

    The same file given twice shows the noise of the machine: its speedup over itself is 1. Files are called by their
    paths, or by `labels` where these are given. `sizes` has shapes of inputs by what they are called: the files are
    compared at each.

    Raises:
        InputError: no file is given, one does not exist, or the runtime cannot read it.
        OutputsError: outputs are not finite, or differ in shape between files.
        DeviceError: the device cannot be reached or went away.
    """
    digests = [model_files(file, runtime).digest for file in files]
    outputs = [_output_names(file) if terms.decoding else () for file in files]
    subjects = [
        Subject(label, runtime, file, digest, outputs=names, shapes=shapes, size=size)
        for size, shapes in (sizes or {"": {}}).items()
        for label, file, digest, names in zip(labels or [*map(str, files)], files, digests, outputs, strict=True)
    ]
    plan = plan_for(len(subjects), budget_s)
    return measure_subjects(subjects, terms, plan, seed=seed, devices=(device,) if device else (), progress=progress)


def _output_names(file: Path) -> tuple[str, ...]:
    if file.is_dir():  # a torch network
        return tuple(spec.name for spec in read_artifact(file).outputs)
    form = form_of(file)
    if form is None:
        raise InputError(f"{file} is no exported file, whose outputs could be decoded")
    _, outputs = load_reference(FORMS[form].ports)(file)
    return tuple(spec.name for spec in outputs)


def plan_for(subjects: int, budget_s: float) -> SamplingPlan:
    """Return the plan for so many subjects: sessions long enough for all of them, and at least four in the budget."""
    return SamplingPlan(budget_s=budget_s, session_s=min(SESSION_S * max(subjects, 2), budget_s / 4))
