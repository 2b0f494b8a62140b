"""Does the candidate need more instructions than the baseline? Two builds of a network on an emulated processor."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.core.runtimes import RUNTIMES
from pipeline.latency.compare import allowed_differences, comparison_of, two_subjects
from pipeline.measure.counting import count_instructions
from pipeline.measure.devices import open_device
from pipeline.measure.devices.registry import device_record
from pipeline.measure.regression import Decision
from pipeline.results.comparison import Comparison, Reason
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from pipeline.core.stage import Progress, Runtime
    from pipeline.latency.compare import ComparisonRequest
    from pipeline.measure.devices.record import DeviceRecord
    from pipeline.results.comparison import ReasonCode, Verdict
    from pipeline.results.measurement import Measurement


def compare_instructions(
    baseline: Path, candidate: Path, question: ComparisonRequest, *, device: str, name: str = "", progress: Progress
) -> tuple[Comparison, Measurement]:
    """Count instructions of both files on an emulated device and say PASS, FAIL or INCONCLUSIVE.

    Raises:
        InputError: the device is not emulated, or a file cannot be used.
        IncomparableError: the two are not on equal terms.
        OutputsError: their outputs differ by more than the tolerance.
        DeviceError: the emulator or what it needs is missing, or it ended.
    """
    emulated = _emulated(device, {question.runtime, question.runtime_b or question.runtime})
    unfair: list[str] = []
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        counts = Path(folder) / "counts.txt"
        measurement = count_instructions(
            two_subjects(baseline, candidate, question, devices=1),
            replace(question.terms, measure_peak_memory=False, priority=False),
            device=open_device(emulated, counts=counts, note=progress.note),
            counts=counts,
            seed=question.seed,
            ready=lambda found: unfair.extend(allowed_differences(found, question)),
            progress=progress,
        )
    decision = _decide_by_instructions(measurement, question.margin)
    return comparison_of(measurement, decision, question, name or candidate.stem, unfair), measurement


def _emulated(device: str, runtimes: set[Runtime]) -> DeviceRecord:
    """Return the device with a root that has the runtimes; raises InputError where it is not emulated."""
    record = device_record(device)
    if record.address.kind != "qemu":
        raise InputError(f"{device} does not count instructions; use an emulated device: --device qemu://cortex-a72")
    return record.with_runtimes(runtimes)


def _decide_by_instructions(measurement: Measurement, margin: float) -> Decision:
    """Compare the least counts of two subjects; the interval is their repeatability, or the processes' disagreement."""
    least = [[min(process) for process in subject.instructions] for subject in measurement.subjects[:2]]
    spread = max(max(counts) / min(counts) - 1 for counts in least)
    value, reach = (
        min(least[1]) / min(least[0]),
        1 + max(spread, *(RUNTIMES[each.runtime].repeatability for each in measurement.subjects[:2])),
    )
    ratio = Interval(value=value, low=value / reach, high=value * reach)
    text = f"{value - 1:+.2%} [{ratio.low - 1:+.2%}, {ratio.high - 1:+.2%}] instructions, margin {margin:.1%}"
    verdict, code = _verdict(ratio, margin)
    return Decision(verdict, (Reason(code=code, text=text),), "instructions", ratio=ratio, error=reach - 1)


def _verdict(ratio: Interval, margin: float) -> tuple[Verdict, ReasonCode]:
    if ratio.low > 1 + margin:
        return "FAIL", "slower"
    return ("PASS", "not slower") if ratio.high <= 1 + margin else ("INCONCLUSIVE", "budget")
