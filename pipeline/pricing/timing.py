"""Probe files timed against the whole network's file, some at once and interleaved, on the target's device.

Only ratios within one measurement are kept: load, frequency and temperature act on all of its files alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import DeviceError
from pipeline.measure.bench import plan_for
from pipeline.measure.harness import measure_subjects
from pipeline.measure.model_files import model_files
from pipeline.measure.statistics import LogRatio, log_ratio, median_milliseconds, round_statistics
from pipeline.measure.subjects import MeasureTerms, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress, Target
    from pipeline.measure.devices import Device
    from pipeline.measure.statistics import Clock
    from pipeline.results.measurement import Measurement, SamplingPlan, SubjectSamples
    from pipeline.results.run import Interval

#: Probes in one measurement beside the whole network's file.
TOGETHER = 6
#: Longest time for one probe, and for one file whose ratio decides.
PROBE_S, VERDICT_S = 1.2, 15.0
#: Relative widths of their intervals at which measuring ends.
_PROBE_WIDTH, _VERDICT_WIDTH = 0.04, 0.016
_PAIR = 2
_LEAST_ERROR = 1e-6
_WARM_UP_NS = 200_000_000
#: A device whose clock frequency is below this share of that at the start is throttled.
_THROTTLED = 0.75


@dataclass(frozen=True)
class PairedRatio:
    """log(time / time of the whole network's file) with its standard error, and the ratio with its 95 % interval."""

    log: LogRatio
    ratio: Interval

    def times(self, factor: float) -> PairedRatio:
        """Return the ratio to another file, that of which to this one is known."""
        log = LogRatio(self.log.centre + math.log(factor), self.log.error)
        return PairedRatio(log, self.ratio.times(factor))

    def pooled_with(self, other: PairedRatio) -> PairedRatio:
        """Return the mean of two measurements of one ratio, each weighted by the inverse of its variance.

        Its standard error is no less than half of what they differ by: what changes between two measurements (where a
        process lies in memory, what a runtime makes of a file) is in neither one's own.
        """
        weights = [1 / max(each.log.error, _LEAST_ERROR) ** 2 for each in (self, other)]
        centre = (weights[0] * self.log.centre + weights[1] * other.log.centre) / sum(weights)
        error = max(sum(weights) ** -0.5, abs(self.log.centre - other.log.centre) / 2)
        reach = error * math.log(self.ratio.high / self.ratio.value) / max(self.log.error, _LEAST_ERROR)
        ratio = self.ratio.model_copy(
            update={name: math.exp(centre + sign * reach) for name, sign in (("low", -1), ("value", 0), ("high", 1))}
        )
        return PairedRatio(LogRatio(centre, error), ratio)


@dataclass(frozen=True)
class TimedFiles:
    """What one measurement found: a ratio for each file, the whole file's milliseconds, and where it ran."""

    ratios: tuple[PairedRatio, ...]
    whole: Interval
    subject: SubjectSamples


class FileTimer:
    """Times files of one network on one device; `shapes` are those of its inputs where files leave them open."""

    def __init__(
        self,
        target: Target,
        shapes: Mapping[str, tuple[int, ...]],
        seed: int,
        device: Device | None,
        progress: Progress,
    ) -> None:
        self.target, self.shapes, self.seed, self.device, self.progress = target, shapes, seed, device, progress
        self._frequency: float | None = None

    def timed(self, whole: Path, files: Sequence[Path], seconds: float) -> TimedFiles:
        """Time files against `whole`, in about `seconds` for each.

        Raises:
            InputError, OutputsError: the runtime refuses a file, or its outputs are not finite.
            DeviceError: the device cannot be reached, went away, or is throttled.
        """
        target = self.target
        subjects = [
            Subject(f"{index} {file.name}", target.runtime, file, model_files(file, target.runtime).digest)
            for index, file in enumerate((whole, *files))
        ]
        terms = MeasureTerms(target.threads, target.batch, shapes=self.shapes, measure_peak_memory=False)
        devices = (self.device,) if self.device else ()
        found = measure_subjects(
            subjects,
            terms,
            _plan(len(subjects), seconds),
            seed=self.seed,
            devices=devices,
            progress=_Quiet(self.progress),
        )
        self._require_steady(found)
        clock: Clock = "cpu" if target.threads == 1 else "wall"
        base = found.subjects[0]
        return TimedFiles(
            tuple(_paired(found, each, base, clock) for each in found.subjects[1:]),
            median_milliseconds(base, "wall", plan=found.plan, seed=found.seed),
            base,
        )

    def _require_steady(self, found: Measurement) -> None:
        """Raise DeviceError where the clock frequency fell by a quarter since the first measurement."""
        seen = [
            block.frequency_mhz
            for subject in found.subjects
            for session in subject.sessions
            for block in session.rounds
            if block.frequency_mhz is not None
        ]
        if not seen:
            return
        mean = sum(seen) / len(seen)
        self._frequency = max(mean, self._frequency or 0.0)
        if mean < _THROTTLED * self._frequency:
            raise DeviceError(
                f"{self.target.device} is throttled: its cores run at {mean:.0f} MHz, and ran at {self._frequency:.0f} "
                "MHz when measuring began. Let it cool down and run the same again: what was measured is kept"
            )


class _Quiet:
    """The progress of one measurement among many: its notes would repeat themselves."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def update(self, done: float, total: float, text: str = "") -> None:
        """Leave the bar to the caller, which knows how many measurements there are."""

    def note(self, text: str) -> None:
        """Say nothing."""


def _plan(subjects: int, seconds: float) -> SamplingPlan:
    """Return a plan of at most about `seconds` for each file beside the first; one file alone is known more closely."""
    width = _PROBE_WIDTH if subjects > _PAIR else _VERDICT_WIDTH
    plan = plan_for(subjects, seconds * max(subjects - 1, 1))
    return plan.model_copy(update={"width": width, "warmup_cap_ns": _WARM_UP_NS})


def _paired(found: Measurement, subject: SubjectSamples, base: SubjectSamples, clock: Clock) -> PairedRatio:
    speedup = log_ratio(
        round_statistics(subject, clock), round_statistics(base, clock), plan=found.plan, seed=found.seed
    )
    return PairedRatio(speedup, speedup.interval(found.plan))
