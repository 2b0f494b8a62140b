"""The result of `secateur gate` as JUnit XML, which CI servers show: one test case for each model."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from pipeline.core.printable import printable_text
from pipeline.report.latency.gate import cells

if TYPE_CHECKING:
    from pipeline.results.gate import GateResult, ModelResult

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
