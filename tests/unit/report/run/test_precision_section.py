"""The section about a search for a precision: the same in every form, and nothing from a run is taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.report import numbers
from pipeline.report.run import html, markdown, precision_plot, precision_rows, terminal
from pipeline.results.precision import CandidateFile, LayerChoice, PrecisionPlan
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.run import RunReport

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script>[x](javascript:alert(1))|`*{{ 7 * 7 }}[red]"
MINUS = numbers.MINUS


def _span(value: float, half: float) -> Interval:
    """Return an interval of plus and minus `half`."""
    return Interval(value=value, low=value - half, high=value + half)


def _candidates() -> tuple[CandidateFile, ...]:
    """Return the float file, one chosen, and one for each way to lose."""
    int8: dict[str, Any] = {"precision": "int8", "scheme": "u8s8", "size_bytes": 1_893_000}
    return (
        CandidateFile(
            label="FP32",
            state="kept",
            precision="float32",
            size_bytes=6_480_000,
            accuracy=0.8796,
            milliseconds=_span(21.35, 0.2),
        ),
        CandidateFile(
            label="int8, two layers in float",
            state="chosen",
            reason="the fastest of those that lose no more than is allowed",
            engine="onnxruntime",
            calibration="percentile 99.99",
            recovery=("cross-layer equalisation", "bias correction"),
            float_nodes=("/stem/Conv", "/head/Gemm"),
            decibels=27.31,
            accuracy=0.8765,
            difference=_span(-0.00305, 0.0061),
            speedup=_span(1.903, 0.02),
            milliseconds=_span(11.22, 0.1),
            saturated=0.0,
            **int8,
        ),
        CandidateFile(
            label="int8",
            state="dropped",
            reason="loses 2.29 points, allowed is 0.5",
            engine="onnxruntime",
            calibration="min-max",
            decibels=12.4,
            accuracy=0.8567,
            difference=_span(-0.0229, 0.0102),
            speedup=_span(2.084, 0.03),
            milliseconds=_span(10.24, 0.1),
            saturated=1240.4,
            **int8,
        ),
        CandidateFile(
            label="int8, NNCF",
            state="missing",
            reason='pip install "secateur[nncf]"',
            engine="nncf",
            precision="int8",
        ),
        CandidateFile(
            label="int8, dynamic",
            state="dropped",
            reason="slower than the float file",
            engine="onnxruntime",
            precision="int8",
            size_bytes=1_870_000,
            decibels=31.0,
            accuracy=0.8796,
            difference=_span(0.0, 0.003),
            speedup=_span(0.712, 0.01),
            milliseconds=_span(29.98, 0.2),
        ),
        CandidateFile(
            label="int8 weights of 4 bits",
            state="dropped",
            reason="loses 77.13 points, allowed is 0.5",
            engine="pt2e",
            accuracy=0.1083,
            difference=_span(-0.7713, 0.03),
            speedup=_span(1.951, 0.02),
            milliseconds=_span(10.94, 0.1),
            **int8,
        ),
    )


@pytest.fixture
def plan() -> PrecisionPlan:
    """Return a search that ended with an int8 file."""
    return PrecisionPlan(
        runtime="onnxruntime",
        device="local",
        threads=1,
        facts="u8s8 runs on VNNI without clipped sums",
        facts_source="https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
        flags=("avx2", "avx512f", "avx512_vnni"),
        accuracy_drop=0.5,
        calibration_images=128,
        calibration_moved={64: 0.061, 128: 0.014},
        validation_images=656,
        candidates=_candidates(),
        layers=(
            LayerChoice(
                name="stem",
                nodes=("/stem/Conv",),
                decibels_gained=6.24,
                speedup=_span(0.967, 0.008),
                left_in_float=True,
                reason="brings most for its time",
            ),
            LayerChoice(name="blocks.3", nodes=(), left_in_float=False, reason="not needed"),
        ),
        chosen=1,
        seconds=252,
    )


def _planned(report: RunReport, plan: PrecisionPlan) -> RunReport:
    """Return the run with this search in its quantize stage."""
    row = report.rows[5]
    changed = {**row.changed, "plan": plan.model_dump(mode="json")}
    return report.model_copy(
        update={"rows": (*report.rows[:5], row.model_copy(update={"changed": changed}), *report.rows[6:])}
    )


def _float_alone(plan: PrecisionPlan) -> PrecisionPlan:
    """Return a search in which nothing but the float file was there to choose."""
    kept = plan.candidates[0].model_copy(update={"state": "chosen", "reason": "int8 is no faster here"})
    return plan.model_copy(update={"candidates": (kept,), "chosen": 0, "layers": (), "flags": ()})


def _printed(report: RunReport, width: int = 140) -> str:
    """Return what the terminal shows."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal.run_table(report))
    return capture.get()


class _Page(HTMLParser):
    """Tags, attributes and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.linked: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag and what it loads or links."""
        self.tags.append(tag)
        self.linked += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action"}]

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.words.append(" ".join(data.split()))


def _texts(drawing: str) -> list[str]:
    """Return every text of a drawing; raises when it is not well-formed."""
    return [each.text or "" for each in ET.fromstring(drawing).iter(f"{SVG}text")]  # noqa: S314 - the project's own


def test_every_candidate_stands_in_every_form(report: RunReport, plan: PrecisionPlan) -> None:
    """Label, accuracy, speedup, verdict and reason of all candidates are told everywhere."""
    found = _planned(report, plan)
    page = " ".join(_Page(html.render(found)).words)
    for text in (_printed(found), markdown.render(found).replace("\\", ""), page):
        for line in precision_rows.lines(plan):
            told = {line.label, line.verdict, line.reason, line.accuracy.text, line.accuracy.note}
            told |= {line.speedup.text, line.speedup.note}
            assert [part for part in told if part not in text] == []
        assert "Chosen: " in text
        assert "allowed is 0.5" in text


def test_terms_and_details_stand_in_the_pages(report: RunReport, plan: PrecisionPlan) -> None:
    """Target, facts with source, flags, images, noise, nodes and layers are in Markdown and in HTML."""
    found = _planned(report, plan)
    told = ["onnxruntime, 1 thread, on local", f"{plan.facts} (source: {plan.facts_source})", "avx2 avx512f"]
    told += ["0.5 points of accuracy", "128 training images; ranges moved by 6.1 % at 64, 1.4 % at 128", "656 images"]
    told += ["27.3 dB", "cross-layer equalisation, bias correction", "/head/Gemm", "1.24 k", "left in float", "+6.2 dB"]
    told += ["0.97x", "[0.959, 0.975]"]
    told += ["11.2 ms", "1.89 MB", "6 candidates, 4 min 12 s"]
    for text in (markdown.render(found), " ".join(_Page(html.render(found)).words)):
        assert [part for part in told if part not in text] == []


def test_numbers_that_were_not_taken_are_dashes(plan: PrecisionPlan) -> None:
    """An engine that is not installed has no number at all; a true zero is one."""
    first, chosen, _, missing, *_ = precision_rows.lines(plan)
    taken = (missing.accuracy, missing.latency, missing.speedup)
    assert {cell.text for cell in taken} == {numbers.DASH}
    assert {missing.decibels, missing.saturated, missing.size, missing.in_float} == {numbers.DASH}
    assert (first.in_float, first.saturated, first.decibels) == (numbers.DASH,) * 3
    assert (chosen.in_float, chosen.saturated) == ("2", "0")
    assert precision_rows.layer_lines(plan)[1].decibels == numbers.DASH


def test_chosen_file_is_told_in_a_sentence(plan: PrecisionPlan) -> None:
    """The sentence has speedup, change in accuracy and size."""
    label, sentence = precision_rows.conclusion(plan)
    assert label == "int8, two layers in float"
    assert f"1.90x [1.88, 1.92] the speed, {MINUS}0.30 [{MINUS}0.9, +0.3] points, 1.89 MB." in sentence


def test_plan_is_not_told_twice(report: RunReport, plan: PrecisionPlan) -> None:
    """What else the stage changed stays among the details, the search does not."""
    found = _planned(report, plan)
    assert precision_rows.beside_plan(found.rows[5]) == report.rows[5].changed
    assert "plan.candidates" not in html.render(found) + markdown.render(found)
    assert "static QDQ" in markdown.render(found)


@pytest.mark.parametrize("wide", [True, False])
def test_drawing_names_every_file_with_both_numbers(plan: PrecisionPlan, wide: bool) -> None:  # noqa: FBT001 - a parameter
    """Each has its own sign; both limits have names; what lost far too much says how much."""
    drawing = precision_plot.score_over_speedup(plan, wide=wide)
    texts = _texts(drawing)
    assert {"0 FP32", f"allowed: {MINUS}0.50 points", "1x, as fast as float"} <= set(texts)
    assert any(text.startswith("1 int8, two layers") for text in texts)
    assert any(text.startswith("5") and text.endswith(f"({MINUS}77.1)") for text in texts)
    assert not any(text.startswith("3") for text in texts if "NNCF" in text)
    found = re.findall(r'class="(symbol \w+|below)"', drawing)
    assert sorted(found) == ["below", "symbol chosen", *["symbol dropped"] * 3, "symbol float"]
    assert precision_plot.not_drawn(plan) == "1 candidate without one of the two numbers: not drawn."


def test_many_candidates_keep_labels_apart(plan: PrecisionPlan) -> None:
    """Where names do not fit, numbers stand for them; the chosen file and the float file keep their names."""
    chosen = plan.candidates[1]
    crowd = [
        chosen.model_copy(
            update={"label": f"int8 candidate {at}", "state": "kept", "speedup": _span(1.7 + 0.02 * at, 0.02)}
        )
        for at in range(20)
    ]
    many = plan.model_copy(update={"candidates": (*plan.candidates[:2], *crowd)})
    texts = _texts(precision_plot.score_over_speedup(many, wide=False))
    assert any(text.startswith("1 int8, two layers") for text in texts)
    assert not any("candidate" in text for text in texts)
    assert {str(number) for number in range(2, 22)} <= {part for text in texts for part in text.split(", ")}


def test_float_file_alone_is_a_section_without_a_drawing(report: RunReport, plan: PrecisionPlan) -> None:
    """When nothing but the float file is there, it is chosen, and the reason is told."""
    alone = _float_alone(plan)
    found = _planned(report, alone)
    assert not precision_plot.score_over_speedup(alone)
    for text in (_printed(found), markdown.render(found), " ".join(_Page(html.render(found)).words)):
        assert "Int8 is no faster here." in text
    assert "tried in float" not in markdown.render(found) + html.render(found)
    assert "<figure" not in html.render(found).split('class="precision"')[1].split("</section>")[0]


def test_float_file_that_won_has_both_signs(plan: PrecisionPlan) -> None:
    """The hollow square holds the diamond."""
    states = ("chosen", "dropped", *(each.state for each in plan.candidates[2:]))
    changed = [each.model_copy(update={"state": s}) for each, s in zip(plan.candidates, states, strict=True)]
    drawing = precision_plot.score_over_speedup(plan.model_copy(update={"candidates": tuple(changed), "chosen": 0}))
    assert drawing.count('class="symbol float"') == drawing.count('class="symbol chosen"') == 1


def test_names_from_a_search_are_text(report: RunReport, plan: PrecisionPlan) -> None:
    """Markup in any name of a search does not become markup of a page, and loads nothing."""
    bad = [
        each.model_copy(update={"label": EVIL, "reason": EVIL, "engine": EVIL, "float_nodes": (EVIL,), "scheme": EVIL})
        for each in plan.candidates
    ]
    layers = tuple(each.model_copy(update={"name": EVIL, "nodes": (EVIL,), "reason": EVIL}) for each in plan.layers)
    texts = {"facts": EVIL, "facts_source": EVIL, "device": EVIL, "flags": (EVIL,)}
    found = _planned(report, plan.model_copy(update={**texts, "candidates": tuple(bad), "layers": layers}))
    page = _Page(html.render(found))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.linked)
    assert any(EVIL in words for words in page.words)
    assert "49" not in set(page.words)
    written = markdown.render(found).split("```json")[0]
    assert "<script" not in written
    assert "[x](" not in written.replace("\\[", "").replace("\\]", "")
    cells = [line for line in written.splitlines() if re.match(r"\| \d \| \*\*&lt;script", line)]
    assert len(cells) == len(bad)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in cells} == {15}
    assert "[red]" in _printed(found, width=400)


@pytest.mark.parametrize("width", [60, 80])
def test_terminal_is_narrow_without_losing_digits(report: RunReport, plan: PrecisionPlan, width: int) -> None:
    """Cells are folded, never cut."""
    text = _printed(_planned(report, plan), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert all(part in text for part in ("87.65 %", "1.90x", "[1.88, 1.92]", f"{MINUS}0.30", "0.71x"))


def test_stored_run_is_shown_again(report: RunReport, plan: PrecisionPlan, tmp_path: Path) -> None:
    """`secateur report` of a folder prints the search and writes it into both pages."""
    (tmp_path / "run.json").write_text(_planned(report, plan).model_dump_json())
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0
    for text in (done.output, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert "Which precision, and why: stage 5 quantize" in text


def test_run_without_a_search_has_no_section(report: RunReport) -> None:
    """Nothing is shown, and no style is loaded for it."""
    assert "Which precision" not in html.render(report) + markdown.render(report) + _printed(report)
    assert ".candidates" not in html.render(report)


def test_labels_of_the_example_do_not_overlap(plan: PrecisionPlan) -> None:
    """The texts at the points lie on lines of their own where they are beside each other."""
    root = ET.fromstring(precision_plot.score_over_speedup(plan))  # noqa: S314 - the project's own
    placed = [
        (float(each.get("x", "0")), float(each.get("y", "0")))
        for each in root.iter(f"{SVG}text")
        if (each.get("class") or "").startswith("label")
    ]
    assert len(placed) == 5
    assert all(abs(a[1] - b[1]) >= 12 or abs(a[0] - b[0]) > 60 for a, b in combinations(placed, 2))
