"""The report's stage table as text: one line for each row of a run, ready for terminal, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.report import numbers
from pipeline.report.run.gains import chips, produced_rows, result, timed_target, timing

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.task import MetricFacts
    from pipeline.report.run.gains import Chip
    from pipeline.results.run import Interval, Row, RunReport, Timing

Role = Literal["original", "stage", "result"]

#: What has to be known to read the table of runtimes.
PAIRED = (
    "Speedups are paired: each is taken in the same rounds as the original's FP32 file in the same runtime with the "
    "same number of threads. Milliseconds are wall time, CPU is the process's own time. Contended: the two speedups "
    "disagree, so something else was using the machine."
)

_SETTINGS_SHOWN = 4


@dataclass(frozen=True)
class Cell:
    """A number and the smaller text that belongs to it, such as its interval. `share` (0 to 1) draws a bar."""

    text: str = numbers.DASH
    note: str = ""
    share: float | None = None


@dataclass(frozen=True)
class ReportLine:
    """One row of the stage table as text. `verdict` is what the chips leave of it."""

    index: int
    label: str
    settings: str
    role: Role
    chips: tuple[Chip, ...]
    verdict: str
    accuracy: Cell
    latency: Cell
    speedup: Cell
    macs: str
    parameters: str
    raw: str
    gzip: str
    seconds: str
    contended: bool

    @property
    def bought_nothing(self) -> bool:
        """Whether the verdict says that the stage improved nothing."""
        return any(chip.tone == "nothing" for chip in self.chips)


@dataclass(frozen=True)
class RuntimeCell:
    """Timing of one file in one runtime as text."""

    milliseconds: str = numbers.DASH
    milliseconds_bounds: str = ""
    speedup: str = numbers.DASH
    speedup_bounds: str = ""
    cpu_milliseconds: str = ""
    cpu_speedup: str = ""
    contended: bool = False


@dataclass(frozen=True)
class RuntimeTable:
    """Timings of all files (rows) in all runtimes (columns)."""

    runtimes: tuple[str, ...]
    files: tuple[tuple[int, str, tuple[RuntimeCell, ...]], ...]


def lines(report: RunReport) -> tuple[ReportLine, ...]:
    """Return the stage table, the original first."""
    taken = (timing(row, timed_target(report)) for row in report.rows)
    slowest = max((each.milliseconds.value for each in taken if each), default=0.0)
    return tuple(_line(report, row, slowest) for row in report.rows)


def role(report: RunReport, row: Row) -> Role:
    """Return what a row is: of a run that has not finished none is its result."""
    if row is report.rows[0]:
        return "original"
    return "result" if report.status == "finished" and row is result(report) else "stage"


def place(runtime: str, threads: int, size: str = "") -> str:
    """Write where a latency was taken: "onnxruntime, 1 thread", and at which size of inputs."""
    return f"{runtime}, {numbers.plural(threads, 'thread')}" + (f", {size}" if size else "")


def timed_place(report: RunReport) -> str:
    """Write where the latencies were taken that stand in the stage table."""
    target = timed_target(report)
    taken = [each for row in report.rows for each in row.timings]
    size = next((each.size for each in taken if each.runtime == target.runtime), "")
    decoded = any(each.time_scope == "model+decode" for each in taken)
    return place(target.runtime, target.threads, size) + (", decoding included" if decoded else "")


def runtime_table(report: RunReport) -> RuntimeTable:
    """Return every timing of the run, file by runtime, the target's runtime first; only files that were timed."""
    target = (report.target.runtime, report.target.threads)
    found = dict.fromkeys((t.runtime, t.threads, t.size) for row in report.rows for t in row.timings)
    keys = sorted(found, key=lambda key: (key[:2] != target, key[:2]))
    files = []
    for row in produced_rows(report):
        taken = {(t.runtime, t.threads, t.size): t for t in row.timings}
        if taken:
            files.append((row.index, row.label, tuple(_runtime_cell(taken.get(key)) for key in keys)))
    return RuntimeTable(tuple(place(*key) for key in keys), tuple(files))


def _line(report: RunReport, row: Row, slowest: float) -> ReportLine:
    taken = timing(row, timed_target(report))
    marked, rest = chips(row.effects)
    return ReportLine(
        index=row.index,
        label=row.label,
        settings=settings(row),
        role=role(report, row),
        chips=marked,
        verdict=rest if row.effects else row.verdict,
        accuracy=_score(row, report.rows[0], report.task.judged),
        latency=_latency(taken, slowest),
        speedup=_interval(taken.speedup, numbers.ratio) if taken else Cell(),
        macs=numbers.count(row.macs),
        parameters=numbers.count(row.parameters),
        raw=numbers.size(row.size_bytes),
        gzip=numbers.size(row.gzip_bytes),
        seconds="cached" if row.cached else numbers.duration(row.seconds),
        contended=taken is not None and taken.contended,
    )


def settings(row: Row) -> str:
    """Write the first settings of a stage, in the order in which the stage declares them; absent ones are left out."""
    known = {row.kind, *row.label.split()}
    given = [(key, value) for key, value in row.config.items() if value is not None and str(value) not in known]
    shown = [f"{key} {short(value)}" for key, value in given[:_SETTINGS_SHOWN]]
    return ", ".join([*shown, "..."] if len(given) > _SETTINGS_SHOWN else shown)


def short(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """Write a setting's value in a few words; nested settings in parentheses."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {short(inner)}" for key, inner in value.items()) + ")"
    if isinstance(value, list | tuple):
        return " ".join(short(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _score(row: Row, original: Row, metric: MetricFacts) -> Cell:
    """Write the score on validation and its change against the original, of shares in points."""
    if row.validation is None:
        return Cell()
    written = numbers.score(row.validation.judged, metric)
    if row is original or original.validation is None:
        return Cell(written)
    return Cell(written, numbers.score_change(row.validation.judged - original.validation.judged, metric))


def score_heading(report: RunReport) -> tuple[str, str]:
    """Return the name of the metric that is judged, and the unit of its changes."""
    return numbers.metric_name(report.task.judged.name), numbers.score_change_unit(report.task.judged)


def _latency(taken: Timing | None, slowest: float) -> Cell:
    """Write milliseconds with their interval, and how long a bar to draw."""
    if taken is None:
        return Cell()
    value = taken.milliseconds
    return Cell(numbers.milliseconds(value.value), numbers.bounds(value), value.value / slowest if slowest else None)


def _interval(interval: Interval | None, write: Callable[[float | None], str]) -> Cell:
    return Cell(write(interval.value), numbers.bounds(interval)) if interval else Cell()


def _runtime_cell(taken: Timing | None) -> RuntimeCell:
    if taken is None:
        return RuntimeCell()
    return RuntimeCell(
        milliseconds=numbers.milliseconds(taken.milliseconds.value),
        milliseconds_bounds=numbers.bounds(taken.milliseconds),
        speedup=numbers.ratio(taken.speedup.value if taken.speedup else None),
        speedup_bounds=numbers.bounds(taken.speedup),
        cpu_milliseconds=_with_bounds(taken.cpu_milliseconds, numbers.milliseconds),
        cpu_speedup=_with_bounds(taken.cpu_speedup, numbers.ratio),
        contended=taken.contended,
    )


def _with_bounds(interval: Interval | None, write: Callable[[float | None], str]) -> str:
    return f"{write(interval.value)} {numbers.bounds(interval)}" if interval else ""
