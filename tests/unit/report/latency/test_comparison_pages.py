"""Pages of a comparison: what they say, that nothing breaks out of its place, and what is drawn."""

from __future__ import annotations

import hashlib
import re
from io import StringIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.latency.compare import ComparisonRequest, comparison_of, read_comparison, write_comparison
from pipeline.measure.regression import decide_verdict
from pipeline.report.latency import comparison_html, comparison_plot
from pipeline.report.latency.comparison_terminal import comparison_summary, speed
from pipeline.results.comparison import Reason
from pipeline.results.measurement import SamplingPlan
from tests.unit.measure.conftest import simulate

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.comparison import Comparison
    from pipeline.results.measurement import Measurement


def compared(slowdown: float = 1.2, label: str = "network") -> tuple[Comparison, Measurement]:
    """Return a comparison of simulated files."""
    measurement = simulate({"base": 1.0, label: slowdown}, plan=SamplingPlan(budget_s=10))
    question = ComparisonRequest(roofline=False)
    return comparison_of(measurement, decide_verdict(measurement, margin=0.03), question, label), measurement


def test_page_says_verdict_reason_and_both_sides() -> None:
    """In words, not in colour alone."""
    found, measurement = compared()
    page = comparison_html.render(found, measurement)
    assert found.verdict == "FAIL"
    assert ">FAIL</span>" in page
    assert "is slower than the baseline by more than the margin" in page
    assert "<b>slower</b>" in page
    assert "wall ms, p95 / p99" in page


def test_two_runtimes_and_files_of_one_name_are_told_apart() -> None:
    """In the terminal's table and last line, and in Markdown."""
    found, _ = compared()
    base = found.baseline.model_copy(update={"label": "runs/a/model.onnx"})
    other = {"label": "runs/b/model.onnx", "runtime": "openvino", "runtime_version": "7.5"}
    found = found.model_copy(update={"baseline": base, "candidate": found.candidate.model_copy(update=other)})
    console = Console(width=200, record=True, file=StringIO())
    console.print(comparison_summary(found))
    said = console.export_text()
    for expected in ("a/model.onnx", "b/model.onnx", f"runtime  {base.runtime}", "and openvino 7.5, "):
        assert re.sub(" +", " ", expected) in re.sub(" +", " ", said)
    assert "| | a/model.onnx | b/model.onnx | ratio |" in comparison_html.markdown(found)


def test_drawings_are_well_formed_and_say_what_they_show() -> None:
    """Every SVG has a title and a description; rounds, sessions, margin and band are there."""
    found, measurement = compared()
    page = comparison_html.render(found, measurement)
    drawings = [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # noqa: S314 - our own
    assert len(drawings) == 6
    assert all(len(each) > 2 and each[0].tag.endswith("title") and each[1].text for each in drawings)
    first = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0]
    assert first.count('class="dot"') >= 40
    assert first.count('class="session"') == 3
    assert all(f'class="{kind}"' in first for kind in ("limit", "band", "dot beside"))


def test_hostile_names_are_escaped() -> None:
    """A file may be called anything."""
    found, measurement = compared(label="<script>alert(1)</script>|x")
    page = comparison_html.render(found, measurement)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    rows = [line for line in comparison_html.markdown(found).splitlines() if line.startswith("|")]
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


def test_without_rounds_nothing_is_drawn() -> None:
    """Instructions have no rounds; the page does without."""
    found, measurement = compared()
    subjects = tuple(subject.model_copy(update={"sessions": ()}) for subject in measurement.subjects)
    empty = measurement.model_copy(update={"subjects": subjects})
    counted = found.model_copy(update={"metric": "instructions", "wall": None, "cpu": None})
    assert comparison_plot.distributions(empty, "wall") == ""
    assert "<svg" not in comparison_html.render(counted, empty)


@pytest.mark.parametrize(
    ("slowdown", "words"), [(0.5, "as fast"), (1.5, "+50."), (1.0, "in CPU time")], ids=["faster", "slower", "same"]
)
def test_speed_in_words(slowdown: float, words: str) -> None:
    """A speedup is a factor, a slowdown a share."""
    assert words in speed(compared(slowdown)[0])


def test_report_draws_a_stored_comparison_again(tmp_path: Path) -> None:
    """By its folder or its file; the result itself stays as it is."""
    write_comparison(*compared(), tmp_path)
    before = (tmp_path / "comparison.json").read_bytes()
    for given in (tmp_path, tmp_path / "comparison.json"):
        done = CliRunner().invoke(app, ["report", str(given)])
        assert done.exit_code == 0, done.output
        assert "FAIL" in done.output
    assert (tmp_path / "comparison.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "comparison.md").is_file()
    assert (tmp_path / "comparison.json").read_bytes() == before
    found, _ = read_comparison(tmp_path)
    assert found.raw
    assert found.raw.sha256 == hashlib.sha256((tmp_path / "rounds.json").read_bytes()).hexdigest()


def test_changed_rounds_are_refused(tmp_path: Path) -> None:
    """They are not those that the verdict rests on."""
    write_comparison(*compared(), tmp_path)
    rounds = tmp_path / "rounds.json"
    rounds.write_text(rounds.read_text().replace('"seed":0', '"seed":1'))
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code != 0
    assert "rounds.json was changed" in str(done.exception)
    rounds.unlink()
    assert "does not exist" in str(CliRunner().invoke(app, ["report", str(tmp_path)]).exception)


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path) -> None:
    """The message names both."""
    said = str(CliRunner().invoke(app, ["report", str(tmp_path)]).exception)
    assert "of a run (report also takes that of a comparison)" in said


def test_reasons_of_doubt_are_told() -> None:
    """Every reason, with its word."""
    found, measurement = compared()
    doubt = Reason(code="contended", text="other work ran")
    page = comparison_html.render(found.model_copy(update={"reasons": (*found.reasons, doubt)}), measurement)
    assert "<b>contended</b>: other work ran" in page
