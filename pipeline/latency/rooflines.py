"""Fills in what limits each side of a comparison, and doubts one that is faster than its operations allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.errors import SecateurError
from pipeline.core.stage import SilentProgress
from pipeline.latency.peaks import peaks_of
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.roofline import Work, exceeds_roofline, roofline_bound
from pipeline.results.comparison import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress
    from pipeline.measure.devices import Device
    from pipeline.results.comparison import Bound, Comparison, Side
    from pipeline.results.measurement import Measurement, SubjectSamples

#: A side above its limit was perhaps probed in a slow moment: so often are the peaks probed again before it is doubted.
AGAIN = 2


def with_rooflines(
    found: Comparison,
    measurement: Measurement,
    sources: Sequence[Path],
    *,
    devices: Sequence[Device] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Return a comparison with the limits of both sides, held against the shortest inference of each.

    A side has none when its file cannot be counted, its device cannot be probed (a note says why), its runtime is torch
    or nothing was timed. A side that is above its limit by more than 10 %, even after new probes, makes the verdict
    INCONCLUSIVE: then the measurement is wrong.
    """
    progress = progress or SilentProgress()
    reachable = devices or (LocalDevice(),)
    limits: list[Bound | None] = []
    for index, side in enumerate((found.baseline, found.candidate)):
        subject, device = measurement.subjects[index], reachable[min(index, len(reachable) - 1)]
        try:
            limits.append(_limit(side, subject, sources[index], measurement.batch, device, progress))
        except SecateurError as error:  # the comparison stands without it
            progress.note(f"no roofline for {side.path}: {error}")
            limits.append(None)
    return _judged(found, limits)


def _limit(
    side: Side, subject: SubjectSamples, source: Path, batch: int, device: Device, progress: Progress
) -> Bound | None:
    work = work_of(source, batch) if side.wall_ns and side.runtime != "torch" and not device.emulated else None
    if work is None or side.wall_ns is None:
        return None
    limit = roofline_bound(work, peaks_of(subject, device, progress=progress), side.wall_ns.min)
    for _ in range(AGAIN):
        if exceeds_roofline(limit):
            limit = roofline_bound(work, peaks_of(subject, device, progress=progress, again=True), side.wall_ns.min)
    return limit


def work_of(source: Path, batch: int) -> Work | None:
    """Return what one inference of a batch has to do; None for a file that cannot be counted.

    Not counted are files with several inputs, or with sizes left open beyond the batch.
    """
    from pipeline.analysis.cost import onnx_cost, openvino_cost  # noqa: PLC0415 - loads both runtimes

    try:
        cost = openvino_cost(source) if source.suffix == ".xml" else onnx_cost(source)
    except Exception:  # noqa: BLE001 - whatever a library raises: a file that is not counted has no roofline
        return None
    return Work(batch * cost.macs, batch * cost.int8_macs, cost.weight_bytes) if cost.macs else None


def _judged(found: Comparison, limits: Sequence[Bound | None]) -> Comparison:
    """Return the comparison with its limits; too fast a side takes the verdict away."""
    sides = [
        side.model_copy(update={"roofline": limit})
        for side, limit in zip((found.baseline, found.candidate), limits, strict=True)
    ]
    doubts = [
        Reason(
            code="above roofline",
            text=f"{side.label} took {side.wall_ns.min / 1e6:.3g} ms at best, but needs {limit.least_ms:.3g} ms at the "
            "peaks of this device: one of the two measurements is wrong; check that the file computes what it should",
        )
        for side, limit in zip(sides, limits, strict=True)
        if limit and side.wall_ns and exceeds_roofline(limit)
    ]
    update = {"baseline": sides[0], "candidate": sides[1], "reasons": (*found.reasons, *doubts)}
    return found.model_copy(update=update | ({"verdict": "INCONCLUSIVE"} if doubts else {}))
