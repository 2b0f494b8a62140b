"""Probes what a device reaches at best, once for each machine, version of a runtime and number of threads.

One network for each limit, all measured together with the runtime and the protocol of every other measurement. A peak
is a maximum: the shortest inference counts, by CPU time where there is one thread, since load can only lengthen it.
What is found is kept in the cache folder, and later probes can only raise it.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.artifact import file_digest
from pipeline.core.units import MEBIBYTE
from pipeline.latency import networks
from pipeline.latency.device_cache import keep_record, kept_file, read_kept
from pipeline.measure.harness import measure_subjects
from pipeline.measure.subjects import MeasureTerms, Subject
from pipeline.results.measurement import SamplingPlan
from pipeline.results.peaks import Peaks, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.core.stage import Progress
    from pipeline.measure.devices import Device
    from pipeline.results.measurement import Measurement, SubjectSamples

#: Sizes of the fully connected networks: within the caches of a core, within those that cores share, beyond both.
_SIZES_MIB = (1, 8, 48)
#: Devices with less memory than this are spared the largest.
_ENOUGH_MEMORY_BYTES = 2**30
MACS = {"products": networks.PRODUCT_MACS, "convolutions": networks.CONVOLUTION_MACS}
#: Two short sessions: only the shortest inference counts.
PLAN = SamplingPlan(
    budget_s=1.0,
    session_s=0.4,
    min_sessions=2,
    warmup_blocks=2,
    warmup_cap_ns=30_000_000,
    block_ns=3_000_000,
)


def peaks_of(subject: SubjectSamples, device: Device, *, progress: Progress, again: bool = False) -> Peaks:
    """Return the peaks of the machine and runtime that a subject ran on, probing when they are not known yet.

    With `again` they are probed even so, and raised where the new probe is better. Takes 2 to 6 s.

    Raises:
        SecateurError: the device cannot be reached, or its runtime cannot run the probes.
    """
    file = kept_file("peaks", subject.fingerprint, subject.runtime, subject.runtime_version, subject.threads)
    known = read_kept(file, Peaks)
    if known and not again:
        return known
    progress.note(f"probing the peak performance of {subject.device} in {subject.runtime}: once, for some seconds")
    found = _probe(subject, device)
    found = known.raised(found) if known else found
    keep_record(file, found)
    return found


def _probe(subject: SubjectSamples, device: Device) -> Peaks:
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        files = write_probes(Path(folder), subject.fingerprint.get("memory_bytes"))
        subjects = [Subject(name, subject.runtime, file, file_digest(file)) for name, file in files.items()]
        terms = MeasureTerms(threads=subject.threads, batch=1, measure_peak_memory=False)
        measured = measure_subjects(subjects, terms, PLAN, seed=0, devices=(device,), stop=lambda _measurement: None)
    return peaks_from(measured)


def write_probes(folder: Path, memory_bytes: int | None) -> Mapping[str, Path]:
    """Write the networks of the limits; the name of a fully connected one is its size in MiB."""
    small = memory_bytes is not None and memory_bytes < _ENOUGH_MEMORY_BYTES
    sizes = _SIZES_MIB[:-1] if small else _SIZES_MIB
    return {
        "call": networks.write_one_operator(folder / "call.onnx"),
        "products": networks.write_products(folder / "products.onnx", int8=False),
        "products int8": networks.write_products(folder / "products-int8.onnx", int8=True),
        "convolutions": networks.write_convolutions(folder / "convolutions.onnx", int8=False),
        "convolutions int8": networks.write_convolutions(folder / "convolutions-int8.onnx", int8=True),
        **{str(size): networks.write_fully_connected(folder / f"read-{size}.onnx", size) for size in sizes},
    }


def peaks_from(measurement: Measurement) -> Peaks:
    """Return the peaks that a measurement of the probes shows; a call's time is no part of reading weights."""
    shortest = {subject.label: shortest_ns(subject) for subject in measurement.subjects}
    call_ns = shortest["call"]
    first = measurement.subjects[0]

    def per_second(suffix: str) -> float:
        return max(2e9 * macs / shortest[name + suffix] for name, macs in MACS.items())

    return Peaks(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=first.runtime,
        runtime_version=first.runtime_version,
        threads=first.threads,
        fingerprint=first.fingerprint,
        float32_per_s=per_second(""),
        int8_per_s=per_second(" int8"),
        reading=tuple(
            Reading(size_bytes=int(name) * MEBIBYTE, bytes_per_s=1e9 * int(name) * MEBIBYTE / max(ns - call_ns, ns / 2))
            for name, ns in shortest.items()
            if name.isdecimal()
        ),
        call_ns=call_ns,
    )


def shortest_ns(subject: SubjectSamples) -> int:
    """Return the shortest inference of a subject; with one thread the shortest by CPU time where that is less."""
    blocks = [block for session in subject.sessions for block in (*session.warmup, *session.rounds)]
    wall = min(min(block.wall_ns) for block in blocks)
    return wall if subject.threads > 1 else min(wall, *(min(block.cpu_ns) for block in blocks))
