"""The result of `secateur gate`: one screen, a Markdown table for a pull request, annotations of GitHub, JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.core.printable import printable_text
from pipeline.report import numbers
from pipeline.report.latency.comparison_terminal import STYLES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.results.gate import GateResult, ModelResult

#: Where GitHub draws a line for a result: those that pass have none.
LEVELS = {"FAIL": "error", "INCOMPARABLE": "error", "INCONCLUSIVE": "warning"}
WRONG_OUTPUTS = 6
_OUTCOMES = {
    0: "passed",
    1: "a model is slower",
    2: "bad input",
    3: "cannot tell",
    4: "measured on terms other than the baseline's",
    5: "a device cannot be reached",
    WRONG_OUTPUTS: "wrong outputs",
}
_EXPLAINED = (
    "Candidate relative to baseline, measured in turns, with 95 % intervals. INCONCLUSIVE: too little time or too much "
    "noise to decide."
)
_HEADINGS = ("Model", "Verdict", "Ratio", "Margin", "Limited by", "Why")


def gate_summary(found: GateResult) -> RenderableType:
    """Return one row for each model, and what follows for all."""
    table = Table(box=None, pad_edge=False)
    for name in _HEADINGS:
        table.add_column(name, overflow="fold")
    for each in found.models:
        style = STYLES.get(each.verdict, "bold red") if each.verdict else "bold red"
        name, verdict, *rest = cells(each)
        table.add_row(Text(name), Text(verdict, style), *map(Text, rest))
    return Group(table, Text(f"exit code {found.exit_code}: {_OUTCOMES[found.exit_code]}"))


def markdown(found: GateResult) -> str:
    """Return a table that fits a comment on a pull request."""
    what = "Latency drift" if found.check == "drift" else "Latency"
    lines = [
        f"### {what}: {_OUTCOMES[found.exit_code]}",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        f"|{'---|' * len(_HEADINGS)}",
        *(f"| {' | '.join(map(escaped, cells(each)))} |" for each in found.models),
        "",
        _EXPLAINED,
    ]
    if found.reason:
        lines += ["", f"Accepted as the new baseline: {escaped(found.reason)}"]
    return "\n".join(lines) + "\n"


def github_lines(found: GateResult) -> list[str]:
    """Return GitHub's workflow commands for what did not pass."""
    lines: list[str] = []
    for each in found.models:
        if each.accepted:
            continue
        level = "error" if each.failure else LEVELS.get(each.verdict or "")
        if level:
            _, verdict, *_, why = cells(each)
            title = _data(f"{each.model}: {verdict}").replace(":", "%3A").replace(",", "%2C")
            lines.append(f"::{level} title={title}::{_data(why)}")
    return lines


def cells(found: ModelResult) -> tuple[str, ...]:
    """Return a model's row: name, verdict, ratio, margin, what limits it, and why."""
    comparison = found.comparison
    ratio = comparison.ratio if comparison else None
    bound = comparison.candidate.roofline if comparison else None
    wrong = found.failure is not None and found.failure.exit_code == WRONG_OUTPUTS
    verdict: str = found.verdict or ("wrong outputs" if wrong else "not measured")
    if found.accepted:
        verdict += ", accepted"
    why = found.failure.text if found.failure else "; ".join(f"{each.code}: {each.text}" for each in found.reasons)
    span = f"{ratio.value - 1:+.1%} [{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}]" if ratio else numbers.DASH
    limit = f"{bound.bound}, {bound.efficiency:.0%}" if bound else numbers.DASH
    return found.model, verdict, span, f"{found.margin:.1%}", limit, why


def escaped(text: str) -> str:
    """Return text for a cell of a Markdown table: no markup, no line breaks, no columns of its own."""
    text = printable_text(text)
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _data(text: str) -> str:
    return printable_text(text, keep="\r\n").replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


_SUITE = "secateur gate"


def junit_xml(found: GateResult) -> str:
    """Return the XML: FAIL is a failure, INCONCLUSIVE skipped or by its policy, what was not measured an error."""
    suite = ET.Element("testsuite", name=_SUITE, timestamp=found.created[:19])
    counts = dict.fromkeys(("failure", "error", "skipped"), 0)
    total = 0.0
    for each in found.models:
        seconds = each.comparison.protocol.seconds if each.comparison else 0.0
        total += seconds
        case = ET.SubElement(
            suite, "testcase", classname=_SUITE, name=printable_text(each.model), time=f"{seconds:.3f}"
        )
        kind = _kind(found, each)
        if kind:
            counts[kind] += 1
            _, verdict, *_, why = cells(each)
            child = ET.SubElement(case, kind, message=printable_text(f"{verdict}: {why}"))
            if kind != "skipped":
                child.set("type", each.verdict or "not measured")
                child.text = printable_text(why)
    suite.set("tests", str(len(found.models)))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", str(counts["error"]))
    suite.set("skipped", str(counts["skipped"]))
    suite.set("time", f"{total:.3f}")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _kind(found: GateResult, each: ModelResult) -> str | None:
    """Return the element that a model's case has, or None when it passed."""
    if each.accepted or each.verdict == "PASS":
        return None
    if each.failure or each.verdict == "INCOMPARABLE":
        return "error"
    if each.verdict == "INCONCLUSIVE":
        return {"pass": None, "fail": "failure"}.get(found.inconclusive, "skipped")
    return "failure"
