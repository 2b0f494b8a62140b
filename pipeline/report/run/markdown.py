"""The report as Markdown with GitHub's tables, for a pull request or a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.printable import printable_text
from pipeline.report import numbers
from pipeline.report.run import facts, headline, latency_rows, precision_rows, rows
from pipeline.report.run.details import detail_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.report.run.details import DetailTable
    from pipeline.results.run import RunReport

_ESCAPED = str.maketrans({letter: f"\\{letter}" for letter in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;", "\n": " "})

#: Stands for the name of the metric and the unit of its changes.
_SCORE = "score"
_CANDIDATE = (
    *("#", "Candidate", "Verdict", "Engine", "Precision", "Calibration", "Recovery", "Left in float", "SQNR"),
    *(_SCORE, "Latency", "Speedup", "Saturated sums", "Size"),
)


def render(report: RunReport) -> str:
    """Return the whole report; text from the run is escaped."""
    parts = [
        f"# {escape(report.name)}",
        escape(" \N{MIDDLE DOT} ".join(facts.about(report))),
        _banner(report),
        "\n".join(
            f"- {answer.question} **{answer.number}**. {escape(answer.sentence)}" for answer in headline.answers(report)
        ),
        _stages(report),
        *_aims(report),
        *_searches(report),
        _final(report),
        _runtimes(report),
        _facts_list("How it was measured", facts.header(report)),
        _budget(report),
        *(_changed(report)),
        "## Recipe\n\n```json\n" + facts.recipe_text(report) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Make text safe inside a paragraph or a table cell."""
    return printable_text(text).translate(_ESCAPED)


def table(names: Sequence[str], aligned: str, cells: Sequence[Sequence[str]]) -> str:
    """Write a table; `aligned` has one letter for each column: l or r."""
    rule = ["---:" if side == "r" else "---" for side in aligned]
    return "\n".join("| " + " | ".join(line) + " |" for line in (names, rule, *cells))


def _joined(text: str, note: str) -> str:
    return f"{text} {note}".rstrip()


def _banner(report: RunReport) -> str:
    found = headline.banner(report)
    return f"> **{escape(found)}**" if found else ""


def _budget(report: RunReport) -> str:
    if not report.budget:
        return ""
    cells = [
        (line.name.replace("_", " "), escape(line.asked), escape(line.found), f"**{line.verdict}**")
        for line in report.budget
    ]
    return "## Budget\n\n" + table(("Budget", "Asked", "Found", "Verdict"), "llll", cells)


def _stages(report: RunReport) -> str:
    if not report.rows:
        return ""
    where = rows.timed_place(report)
    score, unit = rows.score_heading(report)
    names = [
        "#",
        "Stage",
        "Effect, compared with the row before",
        score,
        f"Change, {unit}",
        f"Latency, {where}",
        "Speedup",
    ]
    names += ["MACs", "Parameters", "Size", "gzip", "Took"]
    return "## What each stage did\n\n" + table(names, "rllrrrrrrrrr", [_line(line) for line in rows.lines(report)])


def _line(line: rows.ReportLine) -> tuple[str, ...]:
    bought = ", ".join(f"**{chip.text}**" if chip.tone == "nothing" else escape(chip.text) for chip in line.chips)
    label = f"**{escape(line.label)}**" + (f" ({escape(line.settings)})" if line.settings else "")
    return (
        str(line.index),
        label + (" **result**" if line.role == "result" else ""),
        "<br>".join(part for part in (bought, escape(line.verdict)) if part),
        line.accuracy.text,
        line.accuracy.note or numbers.DASH,
        _joined(line.latency.text, line.latency.note) + (" contended" if line.contended else ""),
        _joined(line.speedup.text, line.speedup.note),
        line.macs,
        line.parameters,
        line.raw,
        line.gzip,
        line.seconds,
    )


def _aims(report: RunReport) -> list[str]:
    found = []
    for row, aim in latency_rows.aims(report):
        found.append(_facts_list(latency_rows.title(row), latency_rows.about(report, aim)))
        found.append(escape(latency_rows.verdict(aim)))
        if moves := [_move(line) for line in latency_rows.move_lines(aim)]:
            names = ("Move", "Kind", "Width", "Predicted", "Measured", "Damage", "Bought")
            found += [table(names, "llrrrrl", moves), latency_rows.READ]
        if layers := [_layer_times(line) for line in latency_rows.layer_lines(aim)]:
            found += [table(("Layer", "Operator", "Before", "After", "Change"), "llrrr", layers)]
            found += [latency_rows.READ_LAYERS]
    return found


def _move(line: latency_rows.MoveLine) -> tuple[str, ...]:
    measured = _joined(line.measured.text, line.measured.note)
    kind, bought = escape(line.kind), escape(line.bought)
    return f"**{escape(line.name)}**", kind, line.change, line.predicted, measured, line.damage, bought


def _layer_times(line: latency_rows.LayerLine) -> tuple[str, ...]:
    return f"**{escape(line.name)}**", escape(line.operator), line.before, line.after, line.change


def _searches(report: RunReport) -> list[str]:
    found = []
    for row, plan in precision_rows.searches(report):
        label, sentence = precision_rows.conclusion(plan)
        found.append(_facts_list(precision_rows.title(row), precision_rows.about(plan)))
        found.append(f"Chosen: **{escape(label)}**. {escape(sentence)}")
        head = [
            each.replace(_SCORE, "{}, change in {}".format(*precision_rows.score_heading(plan))) for each in _CANDIDATE
        ]
        found.append(table(head, "rlllllllrrrrrr", [_candidate(each) for each in precision_rows.lines(plan)]))
        found.append(precision_rows.READ)
        if layers := [_layer(each) for each in precision_rows.layer_lines(plan)]:
            found += [table(("Layer", "Nodes", "Gained", "Speedup over int8", "Verdict"), "llrrl", layers)]
            found += [precision_rows.READ_LAYERS]
    return found


def _candidate(line: precision_rows.CandidateLine) -> tuple[str, ...]:
    nodes = f" ({', '.join(line.nodes)})" if line.nodes else ""
    return (
        str(line.number),
        f"**{escape(line.label)}**",
        _verdict(line.verdict, line.reason),
        escape(line.engine),
        escape(_joined(line.precision.text, line.precision.note)),
        escape(line.calibration),
        escape(line.recovery),
        escape(line.in_float + nodes),
        line.decibels,
        _joined(line.accuracy.text, line.accuracy.note),
        _joined(line.latency.text, line.latency.note),
        _joined(line.speedup.text, line.speedup.note),
        line.saturated,
        line.size,
    )


def _layer(line: precision_rows.LayerLine) -> tuple[str, ...]:
    nodes = ", ".join(map(escape, line.nodes)) or numbers.DASH
    factor = _joined(line.speedup.text, line.speedup.note)
    return f"**{escape(line.name)}**", nodes, line.decibels, factor, _verdict(line.verdict, line.reason)


def _verdict(word: str, reason: str) -> str:
    return f"**{word}**: {escape(reason)}" if reason else f"**{word}**"


def _final(report: RunReport) -> str:
    if report.final is None:
        return ""
    found = headline.difference(report.final, report.task)
    level = numbers.level(report.final.difference)
    told = f"{headline.judgement(report.final, report.task)}: **{found}** ({level} paired interval)."
    names = ("Metric", "Original", "Result", f"Change{', points' if report.task.judged.is_share else ''}")
    found_metrics = table(names, "lrrr", headline.metrics(report.final, report.task))
    details = map(_detail, detail_tables(report.final, report.task))
    return "\n\n".join((f"## Final test\n\n{told}\n\n{found_metrics}", *details))


def _detail(found: DetailTable) -> str:
    lines = [(escape(name), *numbers_) for name, *numbers_ in found.lines]
    listed = table((found.first, "Original", "Result", "Change"), "lrrr", lines)
    return f"### {escape(found.title)}\n\n{listed}" + (f"\n\n{found.note}" if found.note else "")


def _runtimes(report: RunReport) -> str:
    found = rows.runtime_table(report)
    if not found.files:
        return ""
    names = ["File", *(f"{name}: {what}" for name in found.runtimes for what in ("latency", "speedup"))]
    cells = [
        [f"{index} {escape(label)}", *(text for cell in taken for text in _runtime_cells(cell))]
        for index, label, taken in found.files
    ]
    listed = table(names, "l" + "r" * (len(names) - 1), cells)
    return f"## Every file in every runtime\n\n{listed}\n\n{rows.PAIRED}"


def _runtime_cells(cell: rows.RuntimeCell) -> tuple[str, str]:
    """Write latency and speedup of one file in one runtime, wall time first, then CPU time."""
    time = _joined(cell.milliseconds, cell.milliseconds_bounds)
    factor = _joined(cell.speedup, cell.speedup_bounds)
    return (
        time + (f", CPU {cell.cpu_milliseconds}" if cell.cpu_milliseconds else ""),
        factor
        + (f", CPU {cell.cpu_speedup}" if cell.cpu_speedup else "")
        + (" **contended**" if cell.contended else ""),
    )


def _facts_list(title: str, pairs: facts.Facts, mark: str = "##") -> str:
    return f"{mark} {escape(title)}\n\n" + "\n".join(f"- {escape(name)}: {escape(text)}" for name, text in pairs)


def _changed(report: RunReport) -> list[str]:
    if not report.rows:
        return []
    found = ["## What each stage changed"]
    for row in report.rows:
        about = (
            *facts.flat(latency_rows.beside(row)),
            ("file", f"{row.folder}, {row.form}, sha256 {row.digest}"),
        )
        found.append(_facts_list(f"{row.index} {row.label}", about, "###"))
    return found
