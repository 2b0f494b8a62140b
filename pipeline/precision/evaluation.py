"""What the files that compete are judged by: logits, score and paired latency, in the target's runtime."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.predictions import predict_samples
from pipeline.core.errors import InputError, StageError
from pipeline.core.feeds import feed_slices, sample_count
from pipeline.core.nearness import lowest_decibels
from pipeline.core.task import score_of, statistics_of
from pipeline.core.user_code import user_code_errors
from pipeline.measure.batches import run_in_batches
from pipeline.measure.bench import plan_for
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.harness import measure_subjects
from pipeline.measure.machine import usable_threads
from pipeline.measure.model_files import model_files
from pipeline.measure.statistics import median_milliseconds, paired_speedup
from pipeline.measure.subjects import MeasureTerms, Subject, open_subjects, start_worker
from pipeline.results.scores import paired_difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Progress, Runtime, Target
    from pipeline.core.task import Task
    from pipeline.measure.devices import Device
    from pipeline.measure.statistics import Clock
    from pipeline.precision.nearness import Net
    from pipeline.results.run import Interval


@dataclass(frozen=True)
class PairedTime:
    """A file's paired speedup over the first one of the measurement (None for that one), and its time."""

    speedup: Interval | None
    milliseconds: Interval


@dataclass
class Evaluation:
    """Judges files on the same samples and the same device; predictions and outputs are kept by file.

    `held_out` are training samples that nothing was calibrated on. `device` is None for this machine. The score is
    taken on this machine, latency on the device. `net` says which files are far from the float file; without one none.
    """

    runtime: Runtime
    target: Target
    held_out: Feeds
    task: Task
    seed: int
    progress: Progress
    device: Device | None = None
    net: Net | None = None
    output_names: tuple[str, ...] = ("logits",)
    _predictions: dict[Path, list[Any]] = field(default_factory=dict)
    _held_out: dict[Path, list[NDArray[Any]]] = field(default_factory=dict)

    def decibels(self, float_file: Path, file: Path) -> float:
        """Return the ratio of signal to quantization noise on the held-out samples, at most 150 dB.

        Of several outputs the lowest ratio counts.

        Raises:
            InputError: the runtime cannot read or run a file.
            StageError: a file's outputs are not finite.
        """
        return lowest_decibels(*(self._held_out_outputs(each) for each in (float_file, file)))

    def far(self, file: Path) -> str:
        """Say why a file is far from the float file; empty where it is near. Errors are those of `Net.see`."""
        return self.net.fault(file) if self.net else ""

    def score(self, file: Path) -> float:
        """Return the score on the validation split. Raises InputError when the runtime cannot run the file."""
        metric = self.task.metrics[0]
        with user_code_errors(f"{file.name}: the metric {metric.name} cannot be computed"):
            return score_of(metric, statistics_of(metric, self._predicted(file), self._targets))

    def difference(self, before: Path, after: Path) -> Interval:
        """Return score(after) - score(before) on the validation split with a 95 % interval."""
        first, second = (self._predicted(file) for file in (before, after))
        return paired_difference(self.task.metrics[0], first, second, self._targets, self.progress)

    @cached_property
    def _targets(self) -> Sequence[Any]:
        return self.task.targets("validation", slice(None))

    def timed(self, files: Sequence[Path], budget_s: float) -> list[PairedTime]:
        """Measure files together, interleaved, against the first.

        Raises:
            InputError, StageError: the device's runtime refuses a file, or its outputs are not sound; see `refusals`.
            DeviceError: the device cannot be reached, or went away.
        """
        plan = plan_for(len(files), budget_s)
        devices = (self.device,) if self.device else ()
        found = measure_subjects(
            self._subjects(files), self._terms, plan, seed=self.seed, devices=devices, progress=self.progress
        )
        clock: Clock = "cpu" if self.target.threads == 1 else "wall"
        return [
            PairedTime(
                paired_speedup(found, index, clock),
                median_milliseconds(found.subjects[index], "wall", plan=found.plan, seed=found.seed),
            )
            for index in range(len(files))
        ]

    def refusals(self, files: Sequence[Path]) -> list[str]:
        """Say of each file why the device's runtime refuses it beside the first; empty where it does not.

        Raises:
            InputError, StageError: the first file itself is refused.
            DeviceError: the device cannot be reached, or went away.
        """
        base, *others = self._subjects(files)
        reasons = [""]
        with ExitStack() as stack:
            worker = start_worker(stack, self.device or LocalDevice(), self._terms)

            def opened(*subjects: Subject) -> None:
                open_subjects(subjects, self._terms, [worker], seed=self.seed, progress=self.progress)

            opened(base)
            for each in others:
                try:
                    opened(base, each)
                except (InputError, StageError) as error:
                    reasons.append(str(error))
                else:
                    reasons.append("")
        return reasons

    @property
    def _terms(self) -> MeasureTerms:
        target, shapes = self.target, self.task.first_shapes(self.target.batch)
        return MeasureTerms(threads=target.threads, batch=target.batch, shapes=shapes, measure_peak_memory=False)

    def _subjects(self, files: Sequence[Path]) -> list[Subject]:
        return [
            Subject(f"{index} {file.name}", self.runtime, file, model_files(file, self.runtime).digest)
            for index, file in enumerate(files)
        ]

    def _predicted(self, file: Path) -> list[Any]:
        if file not in self._predictions:
            self._predictions[file] = predict_samples(
                file,
                self.task,
                "validation",
                runtime=self.runtime,
                threads=usable_threads().number,
                batch=self.target.batch,
                output_names=self.output_names,
                undecided=True,
            )
        return self._predictions[file]

    def _held_out_outputs(self, file: Path) -> list[NDArray[Any]]:
        if file not in self._held_out:
            ran = self._ran(file, feed_slices(self.held_out, self.target.batch))
            found = [np.concatenate(each)[: sample_count(self.held_out)] for each in zip(*ran, strict=True)]
            if not all(np.isfinite(output).all() for output in found):
                raise StageError(f"{file.name}: its outputs on training images are not finite in {self.runtime}")
            self._held_out[file] = found
        return self._held_out[file]

    def _ran(self, file: Path, batches: Iterable[Feeds]) -> Iterator[list[NDArray[Any]]]:
        """Yield the outputs for each batch, on the threads that evaluation may use here."""
        threads, batch = usable_threads().number, self.target.batch
        return run_in_batches(file, batches, runtime=self.runtime, threads=threads, batch=batch)
