"""The result of `secateur compare` on one screen: verdict first, then why, then the two files side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.core.paths import short_paths
from pipeline.core.units import MEBIBYTE, NANOSECONDS_PER_MILLISECOND
from pipeline.measure.roofline import speed_lever
from pipeline.report import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from pipeline.results.comparison import Comparison, Metric, Side, Spread, Verdict
    from pipeline.results.run import Interval

STYLES: dict[Verdict, str] = {
    "PASS": "bold green",
    "FAIL": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "INCOMPARABLE": "bold magenta",
}
WHAT: dict[Metric, str] = {"cpu": "CPU time", "wall": "wall time", "instructions": "instructions"}


def comparison_summary(found: Comparison) -> RenderableType:
    """Return verdict, reasons, both clocks, and what each file needs."""
    head = Text.assemble((found.verdict, STYLES[found.verdict]), f"  {found.name}, {speed(found)}")
    lines = [head, *(Text(f"  {each.code}: {each.text}") for each in found.reasons)]
    if found.candidate.roofline and found.verdict in {"PASS", "FAIL"}:
        lines.append(Text(f"    what could still be improved: {speed_lever(found.candidate.roofline)}"))
    return Group(*lines, Text(), _table(found), Text(_footer(found)))


def speed(found: Comparison) -> str:
    """Return in words how the candidate's speed compares with the baseline's."""
    ratio, what = found.ratio, WHAT[found.metric]
    if ratio is None:
        return f"no ratio of {what}"
    if ratio.high < 1 and found.metric != "instructions":
        return f"{numbers.ratio(1 / ratio.value)} as fast [{1 / ratio.high:.3f}, {1 / ratio.low:.3f}] by {what}"
    return f"{ratio.value - 1:+.2%} [{ratio.low - 1:+.2%}, {ratio.high - 1:+.2%}] in {what}"


def side_rows(found: Comparison) -> list[tuple[str, str, str, str]]:
    """Return name, baseline, candidate and ratio of everything that was found of at least one file."""
    rows: list[tuple[str, Callable[[Side], str], Interval | None]] = [
        *([("runtime", lambda side: side.runtime, None)] if found.baseline.runtime != found.candidate.runtime else ()),
        ("wall ms, min", _spread("wall_ns", "min"), found.wall),
        ("wall ms, p50 / p90", _spread("wall_ns", "p50", "p90"), None),
        ("wall ms, p95 / p99", _spread("wall_ns", "p95", "p99"), None),
        ("CPU ms, min", _spread("cpu_ns", "min"), found.cpu),
        ("CPU ms, p50 / p90", _spread("cpu_ns", "p50", "p90"), None),
        ("load / first inference, ms", lambda side: _joined(side.load_ms, side.first_ms), None),
        ("peak memory, MiB", lambda side: _joined(_scaled(side.peak_rss_bytes, MEBIBYTE)), None),
        ("instructions, million", lambda side: _joined(_scaled(side.instructions_per_inference, 1e6)), None),
        ("file, MiB", lambda side: _joined(_scaled(side.size_bytes, MEBIBYTE)), None),
        ("limited by", _limit, None),
    ]
    cells = [(name, cell(found.baseline), cell(found.candidate), ratio) for name, cell, ratio in rows]
    return [
        (name, base, candidate, f"{ratio.value:.3f} {numbers.bounds(ratio)}" if ratio else "")
        for name, base, candidate, ratio in cells
        if (base, candidate) != (numbers.DASH, numbers.DASH)
    ]


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    names = short_paths([side.label for side in (found.baseline, found.candidate)])
    for side in (found.baseline, found.candidate):
        table.add_column(names[side.label], justify="right", overflow="fold")
    table.add_column("ratio", justify="right", no_wrap=True)
    for row in side_rows(found):
        table.add_row(*row)
    return table


def _spread(spread: str, *names: str) -> Callable[[Side], str]:
    def cell(side: Side) -> str:
        found: Spread | None = getattr(side, spread)
        return _joined(*(_scaled(getattr(found, name), NANOSECONDS_PER_MILLISECOND) for name in names if found))

    return cell


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _joined(*values: float | None) -> str:
    shown = [numbers.DASH if value is None else numbers.significant(value) for value in values]
    return " / ".join(shown) if any(value is not None for value in values) else numbers.DASH


def _limit(side: Side) -> str:
    if side.roofline is None:
        return numbers.DASH
    return f"{side.roofline.bound}, at {side.roofline.efficiency:.0%} of the bound"


def _footer(found: Comparison) -> str:
    took = found.protocol
    terms = (
        f"{side.runtime} {side.runtime_version}, {numbers.plural(side.threads, 'thread')}, {side.device}"
        for side in (found.baseline, found.candidate)
    )
    parts = [" and ".join(dict.fromkeys(terms))]
    counted = f"{numbers.plural(took.sessions, 'session')}, {numbers.plural(took.rounds, 'round')}, "
    parts.append(f"{counted if took.sessions else ''}{took.seconds:.1f} s")
    if found.noise.preempted_share is not None:
        parts.append(f"{found.noise.preempted_share:.0%} of the blocks interrupted")
    if found.detectable is not None:
        parts.append(f"would detect {found.detectable:+.1%} in 8 of 10 cases")
    return "; ".join(parts)
