"""Compares a file with a copy of itself on a device: what it finds other than 1 is the device's noise."""

from __future__ import annotations

import math
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import __version__
from pipeline.core.artifact import file_digest
from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.core.units import NANOSECONDS_PER_MILLISECOND
from pipeline.latency.checks import all_checks, signs_of
from pipeline.latency.device_cache import keep_record, kept_file
from pipeline.latency.networks import write_small_cnn
from pipeline.latency.noise import HONEST, seconds_of
from pipeline.measure.harness import measure_subjects
from pipeline.measure.statistics import hodges_lehmann, latency_distribution, round_statistics
from pipeline.measure.subjects import MeasureTerms, Subject
from pipeline.results.doctor import Clock, CopyNoise, DoctorReport
from pipeline.results.measurement import SamplingPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.stage import Progress, Runtime
    from pipeline.measure.devices import Device
    from pipeline.results.measurement import Measurement

#: With fewer A/A comparisons a report is shown, but not kept: two ratios say little about the next.
ENOUGH = 5
SESSION_S = 0.6
#: Of the copies' outputs: threads may add numbers up in another order.
TOLERANCE = 1e-3
CLOCKS: tuple[Clock, ...] = ("wall", "cpu")


def examine_device(
    device: Device,
    runtime: Runtime,
    *,
    threads: int = 1,
    repeats: int = 10,
    budget_s: float = 2.0,
    progress: Progress | None = None,
) -> DoctorReport:
    """Compare a network of about a millisecond with its copy `repeats` times, and say what disturbs the device.

    Each comparison uses its whole budget: one that stopped when its answer stood would tell less of the noise. The
    report is kept for comparisons to come when there were at least five. A network of other length or other operators
    may be disturbed more, or less.

    Raises:
        InputError: fewer than two comparisons are asked for, or the device is emulated and has no time of its own.
        DeviceError: the device cannot be reached, lacks the runtime, or went away.
    """
    if repeats < 2:  # noqa: PLR2004 - a spread needs two
        raise InputError(f"found {repeats} A/A comparisons, allowed: 2 or more")
    if device.emulated:
        raise InputError(
            f"{device.url} is emulated: its time means nothing for a real processor; there is nothing to examine"
        )
    progress = progress or SilentProgress()
    measured: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        original = write_small_cnn(Path(folder) / "network.onnx")
        copy = Path(shutil.copyfile(original, Path(folder) / "copy.onnx"))
        for number in range(repeats):
            progress.update(number, repeats, f"comparing two copies on {device.url}")
            measured.append(_copies(original, copy, device, runtime, threads=threads, budget_s=budget_s, seed=number))
    report = report_from(measured)
    if repeats >= ENOUGH:
        keep_record(kept_file("doctor", report.fingerprint, runtime, report.runtime_version, threads), report)
    return report


def _copies(
    original: Path, copy: Path, device: Device, runtime: Runtime, *, threads: int, budget_s: float, seed: int
) -> Measurement:
    subjects = [Subject(path.name, runtime, path, file_digest(path), tolerance=TOLERANCE) for path in (original, copy)]
    plan = SamplingPlan(budget_s=budget_s, session_s=min(SESSION_S, budget_s / 4))
    terms = MeasureTerms(threads=threads, batch=1, measure_peak_memory=False)
    return measure_subjects(subjects, terms, plan, seed=seed, devices=(device,), stop=lambda _measurement: None)


def report_from(measured: Sequence[Measurement]) -> DoctorReport:
    """Return the report over A/A comparisons of one kind."""
    first, signs = measured[0].subjects[0], signs_of(measured)
    noise = {clock: copy_noise([_ratio(each, clock) for each in measured]) for clock in CLOCKS}
    clock: Clock = "wall" if first.threads > 1 else "cpu"
    return DoctorReport(
        tool_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=first.device,
        runtime=first.runtime,
        runtime_version=first.runtime_version,
        threads=first.threads,
        fingerprint=first.fingerprint,
        budget_s=measured[0].plan.budget_s,
        seconds=float(np.mean([seconds_of(each) for each in measured])),
        inference_ms=latency_distribution(first, "wall").min / NANOSECONDS_PER_MILLISECOND,
        clock=clock,
        wall=noise["wall"],
        cpu=noise["cpu"],
        smallest_margin=HONEST * noise[clock].q95,
        interrupted_share=signs.interrupted_share,
        steal=signs.steal,
        load=signs.load,
        checks=all_checks(signs),
    )


def copy_noise(ratios: Sequence[float]) -> CopyNoise:
    """Summarise the ratios of copies; the percentile by linear interpolation."""
    return CopyNoise(
        ratios=tuple(ratios),
        q95=float(np.quantile(np.abs(np.array(ratios) - 1), 0.95)),
        deviation=float(np.log(ratios).std(ddof=1)),
    )


def _ratio(measurement: Measurement, clock: Clock) -> float:
    """Return copy over original, estimated as every comparison does."""
    original, copy = (np.concatenate(round_statistics(each, clock)) for each in measurement.subjects)
    return math.exp(hodges_lehmann(np.log(copy) - np.log(original)))
