"""What the files that compete are judged by: logits, score and paired latency, in the target's runtime."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import InputError, StageError
from pipeline.core.nearness import noise_decibels
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
from pipeline.onnx_graph.execution import batch_slices
from pipeline.results.scores import paired_difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
    """Judges files on the same samples and the same device; predictions and logits are kept by file.

    `held_out_NCHW` are training images that nothing was calibrated on. `device` is None for this machine. The score is
    taken on this machine, latency on the device. `net` says which files are far from the float file; without one none.
    """

    runtime: Runtime
    target: Target
    held_out_NCHW: NDArray[np.float32]
    task: Task
    seed: int
    progress: Progress
    device: Device | None = None
    net: Net | None = None
    output_names: tuple[str, ...] = ("logits",)
    _predictions: dict[Path, list[Any]] = field(default_factory=dict)
    _held_out: dict[Path, NDArray[np.float32]] = field(default_factory=dict)

    def decibels(self, float_file: Path, file: Path) -> float:
        """Return the signal-to-quantization-noise ratio of the logits on the held-out images, at most 150 dB.

        Raises:
            InputError: the runtime cannot read or run a file.
            StageError: a file's logits are not finite.
        """
        signal, other = (self._logits_held_out(each).astype(np.float64) for each in (float_file, file))
        return noise_decibels(signal, other)

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
        return paired_difference(self.task.metrics[0], self._predicted(before), self._predicted(after), self._targets)

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
        return MeasureTerms(threads=self.target.threads, batch=self.target.batch, measure_peak_memory=False)

    def _subjects(self, files: Sequence[Path]) -> list[Subject]:
        return [
            Subject(f"{index} {file.name}", self.runtime, file, model_files(file, self.runtime).digest)
            for index, file in enumerate(files)
        ]

    def _predicted(self, file: Path) -> list[Any]:
        if file not in self._predictions:
            total, batch = self.task.count("validation"), self.target.batch
            feeds = (
                self.task.feeds("validation", range(start, min(start + batch, total)))
                for start in range(0, total, batch)
            )
            ran = self._ran(file, (next(iter(each.values())) for each in feeds))
            found: list[Any] = []
            for outputs in ran:
                with user_code_errors(f"{file.name}: its outputs on validation samples cannot be decoded"):
                    found += self.task.predictions(dict(zip(self.output_names, outputs, strict=False)))
            self._predictions[file] = found
        return self._predictions[file]

    def _logits_held_out(self, file: Path) -> NDArray[np.float32]:
        if file not in self._held_out:
            given_NCHW = self.held_out_NCHW
            found = self._logits(file, batch_slices(given_NCHW, self.target.batch))[: len(given_NCHW)]
            if not np.isfinite(found).all():
                raise StageError(f"{file.name}: its outputs on training images are not finite in {self.runtime}")
            self._held_out[file] = found
        return self._held_out[file]

    def _logits(self, file: Path, batches_NCHW: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the first output for all batches, on the threads that evaluation may use here."""
        return np.concatenate([logits for logits, *_ in self._ran(file, batches_NCHW)]).astype(np.float32)

    def _ran(self, file: Path, batches_NCHW: Iterable[NDArray[np.float32]]) -> Iterator[list[NDArray[np.float32]]]:
        threads, batch = usable_threads().number, self.target.batch
        return run_in_batches(file, batches_NCHW, runtime=self.runtime, threads=threads, batch=batch)
