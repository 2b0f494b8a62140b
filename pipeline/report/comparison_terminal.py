"""The result of `secateur compare` on one screen: verdict first, then why, then the two files side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.measure.roofline import lever
from pipeline.report import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from pipeline.core.comparison import Comparison, Side, Spread, Verdict

STYLES: dict[Verdict, str] = {
    "PASS": "bold green",
    "FAIL": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "INCOMPARABLE": "bold magenta",
}
MEBIBYTE = 1024**2
NANOSECONDS_PER_MILLISECOND = 1e6


def summary(found: Comparison) -> RenderableType:
    """Return verdict, reasons, both clocks, and what each file needs."""
    head = Text.assemble((found.verdict, STYLES[found.verdict]), f"  {found.name}, {speed(found)}")
    lines = [head, *(Text(f"  {each.code}: {each.text}") for each in found.reasons)]
    if found.candidate.roofline and found.verdict in {"PASS", "FAIL"}:
        lines.append(Text(f"  what is left: {lever(found.candidate.roofline)}"))
    return Group(*lines, Text(), _table(found), Text(_footer(found)))


def speed(found: Comparison) -> str:
    """Return in words how the candidate's speed compares with the baseline's."""
    ratio, what = found.ratio, {"cpu": "CPU time", "wall": "wall time", "instructions": "instructions"}[found.metric]
    if ratio is None:
        return f"no ratio of {what}"
    if ratio.high < 1:
        return f"{numbers.ratio(1 / ratio.value)} as fast [{1 / ratio.high:.3f}, {1 / ratio.low:.3f}] by {what}"
    return f"{ratio.value - 1:+.2%} [{ratio.low - 1:+.2%}, {ratio.high - 1:+.2%}] in {what}"


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for side in (found.baseline, found.candidate):
        table.add_column(Path(side.path).name, justify="right", overflow="fold")
    table.add_column("ratio", justify="right")
    rows = [
        ("wall ms, min / p50", _pair("wall_ns", "min", "p50"), found.wall),
        ("wall ms, p90 / p95 / p99", _pair("wall_ns", "p90", "p95", "p99"), None),
        ("CPU ms, min / p50", _pair("cpu_ns", "min", "p50"), found.cpu),
        ("load ms / first inference ms", lambda side: _joined(side.load_ms, side.first_ms), None),
        ("peak memory MiB", lambda side: _joined(side.peak_rss_bytes and side.peak_rss_bytes / MEBIBYTE), None),
        ("instructions, million", lambda side: _joined((side.instructions_per_inference or 0) / 1e6 or None), None),
        ("file MiB", lambda side: _joined(side.size_bytes and side.size_bytes / MEBIBYTE), None),
        ("limited by", _limit, None),
    ]
    for name, cell, ratio in rows:
        cells = [cell(side) for side in (found.baseline, found.candidate)]
        if any(each != numbers.DASH for each in cells):
            table.add_row(name, *cells, f"{ratio.value:.3f} {numbers.bounds(ratio)}" if ratio else "")
    return table


def _pair(spread: str, *names: str) -> Callable[[Side], str]:
    def cell(side: Side) -> str:
        found: Spread | None = getattr(side, spread)
        values = [getattr(found, name) for name in names] if found else []
        return _joined(*(value and value / NANOSECONDS_PER_MILLISECOND for value in values))

    return cell


def _joined(*values: float | None) -> str:
    shown = [numbers.DASH if value is None else numbers.significant(value) for value in values]
    return " / ".join(shown) if any(value is not None for value in values) else numbers.DASH


def _limit(side: Side) -> str:
    if side.roofline is None:
        return numbers.DASH
    return f"{side.roofline.bound}, at {side.roofline.efficiency:.0%} of the bound"


def _footer(found: Comparison) -> str:
    took, side = found.protocol, found.baseline
    parts = [
        f"{side.runtime} {side.runtime_version}, {numbers.plural(side.threads, 'thread')}, {side.device}",
        f"{numbers.plural(took.sessions, 'session')}, {numbers.plural(took.rounds, 'round')}, {took.seconds:.1f} s",
    ]
    if found.noise.preempted_share is not None:
        parts.append(f"{found.noise.preempted_share:.0%} of the blocks interrupted")
    if found.detectable is not None:
        parts.append(f"would have found {found.detectable:+.1%} in 8 of 10 cases")
    return "; ".join(parts)
