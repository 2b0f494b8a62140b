"""The table of `secateur bench`: one row per file, with the ratio to the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.core.paths import short_paths
from pipeline.core.units import MEBIBYTE, NANOSECONDS_PER_MILLISECOND
from pipeline.measure.statistics import latency_distribution, preempted_share, report_timing
from pipeline.report import numbers

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.results.measurement import Measurement


def bench_table(measurement: Measurement) -> RenderableType:
    """Return milliseconds (typical and tail), the paired speedup over the first file, and the conditions."""
    first = measurement.subjects[0]
    title = f"{first.runtime} {first.runtime_version}, {numbers.plural(first.threads, 'thread')}"
    title += f", {first.device}" if first.device != "local" else ""
    title += f", after {measurement.pause_ns / 1e6:g} ms of idling" if measurement.pause_ns else ""
    title += ", decoding included" if measurement.time_scope == "model+decode" else ""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("File", overflow="fold")
    for name in ("ms", "p50", "p90", "p95", "p99", "CPU ms", "Speedup", "Load / first ms", "Peak MiB"):
        table.add_column(name, justify="right")
    noisy, names = False, short_paths([subject.label for subject in measurement.subjects])
    for index, subject in enumerate(measurement.subjects):
        found, spread = report_timing(measurement, index), latency_distribution(subject, "wall")
        noisy |= found.contended
        wall, cpu, sessions = found.milliseconds, found.cpu_milliseconds, subject.sessions
        table.add_row(
            names[subject.label] + (f" ({subject.size})" if subject.size else ""),
            f"{numbers.significant(wall.value)} {numbers.bounds(wall)}",
            *map(_scaled, (spread.p50, spread.p90, spread.p95, spread.p99)),
            numbers.significant(cpu.value) if cpu else numbers.DASH,
            f"{numbers.ratio(found.speedup.value)} {numbers.bounds(found.speedup)}" if found.speedup else "1 (first)",
            f"{_scaled(min(each.load_ns for each in sessions))} / {_scaled(min(each.first_ns for each in sessions))}",
            numbers.significant(subject.peak_rss_bytes / MEBIBYTE) if subject.peak_rss_bytes else numbers.DASH,
        )
    share = max(preempted_share(subject) for subject in measurement.subjects)
    rounds = sum(len(session.rounds) for session in first.sessions)
    spent = f"{len(first.sessions)} sessions, {rounds} rounds, {measurement.seconds:.0f} s"
    lines = [
        f"{spent}; {share:.0%} of the blocks were interrupted by other programs.",
        "Compare files by their speedup: milliseconds hold only for the present load and clock frequency.",
    ]
    if noisy:
        lines.append("Wall and CPU time disagree: other programs ran on the cores. Measure again on a quiet machine.")
    return Group(table, *(Text(line) for line in lines))


def _scaled(nanoseconds: float | None) -> str:
    return numbers.DASH if nanoseconds is None else numbers.significant(nanoseconds / NANOSECONDS_PER_MILLISECOND)
