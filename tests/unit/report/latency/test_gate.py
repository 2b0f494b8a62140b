"""A gate's result as table, Markdown, annotations and JUnit: nothing is lost, nothing breaks out of its place."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from pipeline.report.latency.gate import gate_summary, github_lines, junit_xml, markdown
from pipeline.results.comparison import Reason
from pipeline.results.gate import Failure, GateResult, ModelResult

if TYPE_CHECKING:
    from pipeline.results.comparison import Verdict
    from pipeline.results.gate import Policy

HOSTILE = "a|b<script>`x`\n::error::50%, \x07"


def model(name: str, verdict: Verdict, text: str = "+1.0%", code: str = "slower") -> ModelResult:
    """Return a model with a verdict."""
    reason = Reason.model_validate({"code": code, "text": text})
    return ModelResult(model=name, file=f"{name}.onnx", margin=0.03, verdict=verdict, reasons=(reason,))


def result(*models: ModelResult, policy: Policy = "report", code: int = 1) -> GateResult:
    """Return a gate over these."""
    created = "2026-01-01T00:00:00+00:00"
    return GateResult(
        tool_version="1", created=created, config="latency.toml", inconclusive=policy, models=models, exit_code=code
    )


ALL = result(
    model("good", "PASS", code="not slower"),
    model("slow", "FAIL", HOSTILE),
    model("unsure", "INCONCLUSIVE", code="budget"),
    model("other", "INCOMPARABLE", "threads: 1, 2", code="differs"),
    ModelResult(model="wrong", file="w.onnx", margin=0.03, failure=Failure(exit_code=6, text="differs by 40%")),
    model("wanted", "FAIL").model_copy(update={"accepted": "0" * 64}),
)


def test_junit_has_a_case_for_each_model() -> None:
    """FAIL is a failure, INCONCLUSIVE skipped, what was not measured an error, what was accepted passed."""
    suite = ET.fromstring(junit_xml(ALL).encode())[0]  # noqa: S314 - written here
    kinds = {case.get("name"): [child.tag for child in case] for case in suite}
    expected: dict[str, list[str]] = {
        "good": [],
        "slow": ["failure"],
        "unsure": ["skipped"],
        "other": ["error"],
        "wrong": ["error"],
        "wanted": [],
    }
    assert kinds == expected
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "1", "errors": "2", "skipped": "1"}
    assert "<script>" in (suite[1][0].get("message") or "")


@pytest.mark.parametrize(("policy", "kind"), [("pass", []), ("fail", ["failure"]), ("retry", ["skipped"])])
def test_junit_follows_the_policy(policy: Policy, kind: list[str]) -> None:
    """What INCONCLUSIVE ends with is what CI shows."""
    suite = ET.fromstring(junit_xml(result(model("a", "INCONCLUSIVE"), policy=policy)).encode())[0]  # noqa: S314
    assert [child.tag for child in suite[0]] == kind


def test_markdown_is_one_table() -> None:
    """A row for each model, whatever its texts hold."""
    text = markdown(ALL)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(ALL.models)
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert all(row.replace("\\|", "").count("|") == 7 for row in rows)
    assert "wanted | FAIL, accepted" in text


def test_annotations_are_single_lines() -> None:
    """Line breaks and percent signs of a text do not become commands of their own."""
    lines = github_lines(ALL)
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::error", "::error"]
    assert lines[0].startswith("::error title=slow%3A FAIL::slower: a|b<script>`x`%0A::error::50%25")
    assert all("\n" not in line for line in lines)


def test_summary_says_what_follows() -> None:
    """Verdicts, the reasons, and the exit code in words."""
    stream = io.StringIO()
    Console(width=140, file=stream).print(gate_summary(ALL))
    text = stream.getvalue()
    assert "wrong outputs" in text
    assert "exit code 1: a model is slower" in text
