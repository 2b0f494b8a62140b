"""What the files that compete are judged by: logits, accuracy and paired latency, in the target's runtime."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.accuracy import paired_difference
from pipeline.measure.bench import plan_for
from pipeline.measure.harness import measure
from pipeline.measure.payload import payload
from pipeline.measure.runtimes import open_session
from pipeline.measure.statistics import milliseconds, speedup
from pipeline.measure.subjects import Subject, Terms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.run import Interval
    from pipeline.core.stage import Progress, Runtime, Target
    from pipeline.measure.devices import Device
    from pipeline.measure.statistics import Clock

#: Signal without noise: equal outputs.
MOST_DECIBELS = 150.0


@dataclass(frozen=True)
class Timed:
    """A file's paired speedup over the first one of the measurement (None for that one), and its time."""

    speedup: Interval | None
    milliseconds: Interval


@dataclass
class Evaluation:
    """Judges files on the same images and the same device; logits are kept by file.

    `held_out_NCHW` are training images that nothing was calibrated on. `device` is None for this machine.
    """

    runtime: Runtime
    target: Target
    held_out_NCHW: NDArray[np.float32]
    validation_NCHW: NDArray[np.float32]
    labels: NDArray[np.int64]
    seed: int
    progress: Progress
    device: Device | None = None
    _predictions: dict[Path, NDArray[np.int64]] = field(default_factory=dict)
    _held_out: dict[Path, NDArray[np.float32]] = field(default_factory=dict)

    def decibels(self, float_file: Path, file: Path) -> float:
        """Return the signal-to-quantization-noise ratio of the logits on the held-out images, at most 150 dB."""
        signal, other = (self._logits_held_out(each) for each in (float_file, file))
        noise = float(np.square(signal - other).sum())
        power = float(np.square(signal).sum())
        if noise <= power * 10 ** (-MOST_DECIBELS / 10):
            return MOST_DECIBELS
        return 10 * float(np.log10(power / noise)) if power > 0 and np.isfinite(noise) else -MOST_DECIBELS

    def accuracy(self, file: Path) -> float:
        """Return the accuracy on the validation split."""
        return float((self._predicted(file) == self.labels).mean())

    def difference(self, before: Path, after: Path) -> Interval:
        """Return accuracy(after) - accuracy(before) on the validation split with a 95 % interval."""
        return paired_difference(self._predicted(before), self._predicted(after), self.labels)

    def timed(self, files: Sequence[Path], budget_s: float) -> list[Timed]:
        """Measure files together, interleaved, against the first."""
        subjects = [
            Subject(f"{index} {file.name}", self.runtime, file, payload(file, self.runtime).digest)
            for index, file in enumerate(files)
        ]
        terms = Terms(threads=self.target.threads, batch=self.target.batch, weigh=False)
        plan = plan_for(len(subjects), budget_s)
        devices = (self.device,) if self.device else ()
        found = measure(subjects, terms, plan, seed=self.seed, devices=devices, progress=self.progress)
        clock: Clock = "cpu" if self.target.threads == 1 else "wall"
        return [
            Timed(
                speedup(found, index, clock),
                milliseconds(found.subjects[index], "wall", plan=found.plan, seed=found.seed),
            )
            for index in range(len(subjects))
        ]

    def _predicted(self, file: Path) -> NDArray[np.int64]:
        if file not in self._predictions:
            self._predictions[file] = np.asarray(self._logits(file, self.validation_NCHW).argmax(axis=1), np.int64)
        return self._predictions[file]

    def _logits_held_out(self, file: Path) -> NDArray[np.float32]:
        if file not in self._held_out:
            self._held_out[file] = self._logits(file, self.held_out_NCHW)
        return self._held_out[file]

    def _logits(self, file: Path, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the first output for each image [N, ...]."""
        batch = self.target.batch
        session = open_session(self.runtime, file, threads=len(os.sched_getaffinity(0)), batch=batch)
        parts = [
            np.asarray(session.run(np.take(images_NCHW, range(start, start + batch), axis=0, mode="wrap"))[0])
            for start in range(0, len(images_NCHW), batch)
        ]
        return np.concatenate(parts)[: len(images_NCHW)]
