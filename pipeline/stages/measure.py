"""Measure: time every exported file of the chain so far on this machine, against the original's FP32 export.

All files are measured together, interleaved round by round, in each listed runtime that reads them, so that load on the
machine acts on all alike. The artifact goes on unchanged; the samples lie in measurement.json.

Source: Bulej et al., "Duet Benchmarking" (ICPE 2020); Kalibera & Jones, "Rigorous Benchmarking in Reasonable Time"
(ISMM 2013).

It does not help to measure on another machine than the target: widths and types that are fast there may not be here.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.analysis.timed_decoding import timed_decoding
from pipeline.core.artifact import Form
from pipeline.core.errors import InputError
from pipeline.core.runtimes import FORMS, RUNTIMES, shipping_runtimes
from pipeline.core.stage import ChainFile, Context, Outcome, Runtime, Stage
from pipeline.core.units import Duration
from pipeline.measure.bench import plan_for
from pipeline.measure.devices import open_device
from pipeline.measure.harness import measure_subjects
from pipeline.measure.statistics import paired_speedup
from pipeline.measure.subjects import MeasureTerms, Subject
from pipeline.results.measurement import MEASUREMENT_FILE, Measurement, TimeScope, save_measurement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.core.artifact import Artifact
    from pipeline.measure.decoding import Decoding


class Measure(Stage):
    """Latency of every file so far, paired with the original's."""

    brings_no_gain: ClassVar[str] = "measure changes no file"
    revision: ClassVar[int] = 2
    makes_file: ClassVar[bool] = False
    effect: ClassVar[str] = "measurement"
    libraries: ClassVar[tuple[str, ...]] = tuple(facts.package for facts in RUNTIMES.values())
    takes: ClassVar[frozenset[Form]] = frozenset(FORMS)

    kind: Literal["measure"] = "measure"
    runtimes: tuple[Runtime, ...] = Field(
        default=shipping_runtimes(),
        min_length=1,
        description="Runtimes to measure in; each measures the files that it can read. `torch` times the networks "
        "before export, paired with the original network.",
    )
    budget: Duration = Field(
        default=60.0,
        description="Time for the whole measurement. It ends earlier if every speedup is known to within 4 %, and "
        "later if four sessions of three rounds do not fit.",
    )
    time_scope: TimeScope = Field(
        default="model",
        exclude_if="model".__eq__,  # so that configurations without it are those that they were
        description="What is timed: `model`, the file alone on random inputs, or `model+decode`, the file on the first "
        "validation samples and the task's numpy decode of what it gives (overlapping boxes removed, labels read). "
        "Decisions of other stages, such as `on_no_gain`, look at the file alone.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="Threads of one inference; absent: those of the recipe's target."
    )

    @property
    def measures(self) -> bool:
        """Always."""
        return True

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Measure and write measurement.json.

        Raises:
            InputError: none of the runtimes reads any of the files.
            OutputsError: a file computes values that are not finite, or other shapes than the original.
            DeviceError: the target's device cannot be reached, or went away.
        """
        target = context.target
        with ExitStack() as stack:
            decoding = self._decoding(given, context, stack)
            subjects = [
                replace(subject, decoding=self._decoding(artifact, context, stack))
                if _side(artifact) != _side(given)
                else subject
                for artifact, subject in self._subjects(given, context)
            ]
            measurement = measure_subjects(
                subjects,
                MeasureTerms(threads=self.threads or target.threads, batch=target.batch, decoding=decoding),
                plan_for(len(subjects), self.budget),
                seed=context.seed,
                devices=() if target.device == "local" else (open_device(target.device),),
                progress=context.progress,
            )
        save_measurement(measurement, context.folder / MEASUREMENT_FILE)
        return Outcome(form=None, changed=_summary(measurement))

    def _decoding(self, artifact: Artifact, context: Context, stack: ExitStack) -> Decoding | None:
        """Return what decodes an artifact's outputs, with samples of its size for as long as the stack is open."""
        if self.time_scope == "model":
            return None
        return stack.enter_context(timed_decoding(context.task().for_inputs(artifact.inputs), context.target.batch))

    def _subjects(self, given: Artifact, context: Context) -> list[tuple[Artifact, Subject]]:
        """Return every distinct file in every runtime that reads it, the original first in each."""
        files = [
            ChainFile(label="original", artifact=context.original),
            *context.candidates,
            ChainFile(label=given.lineage[-1].kind if given.lineage else "given", artifact=given),
        ]
        distinct: dict[str, ChainFile] = {}
        for candidate in files:
            distinct.setdefault(candidate.artifact.digest, candidate)
        readable = [
            (candidate, runtime)
            for runtime in dict.fromkeys(self.runtimes)
            for candidate in distinct.values()
            if candidate.artifact.form in RUNTIMES[runtime].reads
        ]
        missing = [runtime for runtime in self.runtimes if runtime not in {found for _, found in readable}]
        if missing:
            forms = sorted({candidate.artifact.form for candidate in files})
            raise InputError(f"measure: {', '.join(missing)} reads none of the files so far ({', '.join(forms)})")
        opened = any(size < 0 for each in files for spec in each.artifact.inputs for size in spec.shape[1:])
        sizes = context.task().timed_shapes(context.target.batch) if opened else {"": {}}
        return [
            (each[0].artifact, _subject(*each, size=size, shapes=shapes))
            for size, shapes in sizes.items()
            for each in readable
        ]


def _side(artifact: Artifact) -> int:
    return artifact.inputs[0].shape[-1]


def _subject(candidate: ChainFile, runtime: Runtime, *, size: str, shapes: Mapping[str, tuple[int, ...]]) -> Subject:
    artifact = candidate.artifact
    source = artifact.folder if runtime == "torch" else artifact.file
    outputs = tuple(spec.name for spec in artifact.outputs)
    return Subject(candidate.label, runtime, source, artifact.digest, outputs=outputs, shapes=shapes, size=size)


def _summary(measurement: Measurement) -> dict[str, Any]:
    sessions = measurement.subjects[0].sessions
    speedups: dict[str, dict[str, float]] = {}
    for index, subject in enumerate(measurement.subjects):
        found = paired_speedup(measurement, index, "wall")
        if found is not None:
            speedups.setdefault(subject.runtime, {})[subject.label] = found.value
    return {
        "file": MEASUREMENT_FILE,
        "files": len({subject.digest for subject in measurement.subjects}),
        "sessions": len(sessions),
        "rounds": sum(len(session.rounds) for session in sessions),
        "stopped": measurement.stopped,
        "seconds": measurement.seconds,
        "speedups": speedups,
    }
