"""The section about a latency as target: the same in every form, and nothing from a run is taken for markup."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.report import numbers
from pipeline.report.run import html, latency_plot, latency_rows, markdown, terminal
from pipeline.results.latency_target import LatencyTarget

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.run import RunReport

EVIL = "<script>alert(1)</script>[x](javascript:alert(1))|`*{{ 7 * 7 }}[red]"
MINUS, ARROW = numbers.MINUS, numbers.ARROW
#: What a stage writes, as it stands in run.json.
RECORD: dict[str, Any] = {
    "runtime": "onnxruntime",
    "device": "local",
    "threads": 1,
    "precision": "int8",
    "asked": {"factor": 0.35, "milliseconds": None},
    "whole_ms": {"value": 7.14, "low": 7.1, "high": 7.2},
    "whole_float_ms": {"value": 14.28, "low": 14.2, "high": 14.4},
    "ratio": {"value": 0.3472, "low": 0.3441, "high": 0.3499},
    "predicted": 0.352,
    "met": True,
    "nearest": None,
    "floor": {"factor": 0.12, "why": "operators' overhead takes 0.6 ms"},
    "model": {
        "probes": 64,
        "median_error": 0.021,
        "p90_error": 0.054,
        "trusted": True,
        "seconds": 121.0,
        "granules": {"depthwise": 16, "conv3x3": 8},
    },
    "layers": [
        {"name": "stem", "operator": "conv3x3", "before_ms": 0.81, "after_ms": 0.42},
        {"name": "layer1.0.conv1", "operator": "conv3x3", "before_ms": 1.9, "after_ms": None},
        {"name": "head", "operator": "matmul", "before_ms": 0.05, "after_ms": 0.06},
    ],
    "moves": [
        {
            "kind": "channels",
            "name": "stem",
            "before": 64,
            "after": 32,
            "predicted_ms": -0.39,
            "measured_ms": None,
            "damage": 0.0123,
            "bought": "a granule of conv3x3",
        },
        {
            "kind": "block",
            "name": "layer1.0",
            "before": 1,
            "after": 0,
            "predicted_ms": -2.1,
            "measured_ms": {"value": -1.94, "low": -2.01, "high": -1.87},
            "damage": 0.051,
            "bought": "two convolutions and a sum",
        },
        {"kind": "heads", "name": "attention", "before": 6, "after": 4, "predicted_ms": -0.8, "damage": 1.5},
    ],
    "undone": ["layer3.1.conv1"],
    "corrections": [{"predicted": 0.341, "measured": 0.366}, {"predicted": 0.352, "measured": 0.3472}],
}


def record(**changes: object) -> LatencyTarget:
    """Return what a stage found."""
    return LatencyTarget.model_validate({**RECORD, **changes})


def aimed(report: RunReport, found: LatencyTarget) -> RunReport:
    """Return the run with this in its prune stage."""
    row = report.rows[1]
    changed = {**row.changed, "latency": found.model_dump(mode="json")}
    return report.model_copy(
        update={"rows": (report.rows[0], row.model_copy(update={"changed": changed}), *report.rows[2:])}
    )


def printed(report: RunReport, width: int = 140) -> str:
    """Return what the terminal shows."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal.run_table(report))
    return capture.get()


class Page(HTMLParser):
    """Tags and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        del attrs
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.words.append(" ".join(data.split()))


def page(report: RunReport) -> str:
    """Return the words of the HTML page."""
    return " ".join(" ".join(Page(html.render(report)).words).split())


def test_everything_stands_in_every_form(report: RunReport) -> None:
    """Verdict, terms, moves and layers."""
    found = record()
    run = aimed(report, found)
    told = {latency_rows.title(run.rows[1]), latency_rows.verdict(found)}
    told |= {text for fact in latency_rows.about(run, found) for text in fact}
    for move in latency_rows.move_lines(found):
        told |= {move.name, move.kind, move.change, move.predicted, move.measured.text, move.measured.note, move.bought}
    for layer in latency_rows.layer_lines(found):
        told |= {layer.name, layer.operator, layer.before, layer.after, layer.change}
    for text in (printed(run, 200), markdown.render(run).replace("\\", ""), page(run)):
        assert [part for part in told if part not in text] == []


SLOW, FAST = {"value": 0.36, "low": 0.355, "high": 0.365}, {"value": 0.32, "low": 0.318, "high": 0.322}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Asked for 0.350x of the unpruned int8 file, 2.50 ms; measured 0.347x [0.344, 0.350], 2.48 ms: met."),
        (
            {"asked": {"factor": None, "milliseconds": 2.5}},
            "Asked for 2.50 ms, 0.350x of the unpruned int8 file; measured 0.347x [0.344, 0.350], 2.48 ms: met.",
        ),
        (
            {"met": False, "ratio": SLOW, "nearest": {"below": 0.33, "above": 0.37}},
            "2.57 ms: missed; the nearest that was tried: 0.330x (2.36 ms) and 0.370x (2.64 ms).",
        ),
        (
            {"met": False, "ratio": SLOW, "nearest": {"below": None, "above": 0.37}},
            "missed; the nearest that was tried: 0.370x (2.64 ms).",
        ),
        (
            {"met": False, "ratio": FAST, "nearest": {"below": 0.32, "above": 0.37}},
            "within it, 9 % faster than asked; the nearest that was tried above it: 0.370x (2.64 ms).",
        ),
        ({"met": False, "ratio": FAST, "nearest": {"below": 0.32}}, "2.28 ms: within it, 9 % faster than asked."),
        ({"met": False, "ratio": SLOW}, "2.57 ms: missed."),
    ],
)
def test_the_verdict_is_a_sentence(changes: dict[str, Any], said: str) -> None:
    """Asked, measured with its interval, met or not, and what else there is."""
    assert latency_rows.verdict(record(**changes)).endswith(said)


def test_terms_are_told(report: RunReport) -> None:
    """The original float file too, from which a recipe's budget counts, and how far the cost model is off."""
    facts = dict(latency_rows.about(report, record()))
    assert facts["Target"] == "onnxruntime, 1 thread, on local, int8"
    assert facts["Original in float"].startswith("14.3 ms [14.2, 14.4]; the result takes 0.174x of that")
    assert facts["Floor"] == "0.120x: operators' overhead takes 0.6 ms"
    model = "64 probes in 2 min 01 s, off by 2.1 % in the median and 5.4 % in one of ten; predicted 0.352x"
    assert facts["Cost model"] == model
    assert facts["Steps of width"] == "conv3x3 8, depthwise 16"
    assert facts["Files timed on the way"] == "predicted 0.341x was 0.366x; predicted 0.352x was 0.347x"
    assert facts["Undone, as it bought nothing"] == "layer3.1.conv1"


def test_what_there_is_not_is_not_told(report: RunReport) -> None:
    """No float file, no floor, no steps, nothing undone, and a cost model that decided nothing."""
    model = {**RECORD["model"], "trusted": False, "granules": {}}
    bare = record(whole_float_ms=None, floor=None, model=model, undone=[], corrections=[])
    facts = dict(latency_rows.about(report, bare))
    assert [*facts] == ["Target", "Unpruned", "Cost model"]
    assert "too far off to be trusted, so that every step was measured" in facts["Cost model"]
    coarse = record(model=model, layers=[])
    told = dict(latency_rows.about(report, coarse))["Cost model"]
    assert "it knows operations alone, since the file has no template, so that every step was measured" in told


def test_sums_of_equal_times_have_not_changed() -> None:
    """They differ in the last bit, which is no change of a time."""
    times = [(0.5, 0.5)] * latency_rows.LARGEST + [(0.1, 0.3), (0.2, 0.0), (0.3, 0.3)]
    layers = [
        {"name": f"n{place}", "operator": "conv", "before_ms": before, "after_ms": after}
        for place, (before, after) in enumerate(times)
    ]
    *_, others = latency_rows.layer_lines(record(layers=layers))
    assert others.name == "3 other nodes"
    assert others.change == "0 ms"


def test_smaller_images_are_told_like_any_move(report: RunReport) -> None:
    """In pixels, with all sizes that were looked at; where they were enough, that nothing was probed."""
    ratio = {"value": 0.5, "low": 0.49, "high": 0.51}
    sizes = [
        {"side": 160, "why": "about 0.4x is left at the least"},
        {"side": 112, "ratio": ratio, "loss": 0.7},
    ]
    move = {"kind": "resolution", "name": "input", "before": 160, "after": 112, "predicted_ms": -3.5}
    model = {**RECORD["model"], "probes": 0}
    found = record(sizes=sizes, moves=[move], model=model)
    (line,) = latency_rows.move_lines(found)
    assert (line.kind, line.change) == ("resolution", f"160 {ARROW} 112 px")
    facts = dict(latency_rows.about(report, found))
    assert facts["Sizes of images"] == (
        "160 px: about 0.4x is left at the least; 112 px, 0.500x [0.490, 0.510], loss 0.700: chosen"
    )
    assert facts["Cost model"] == "none was needed: whole files were timed at each size of images"


MEASURED = "0.587x [0.581, 0.593] of the unpruned file, by the measurements of the run"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, f"{MEASURED}: above the target"),
        ({"asked": {"factor": 0.6}}, f"{MEASURED}: within the target"),
        ({"threads": 2}, None),
        ({"whole_float_ms": None}, None),
    ],
)
def test_the_file_that_ships_is_compared_again(report: RunReport, changes: dict[str, Any], said: str | None) -> None:
    """By the run's own measurement over the original, where it has the same terms: other stages may have slowed it."""
    assert dict(latency_rows.about(report, record(**changes))).get("File that ships") == said


def test_moves_are_sorted_by_what_they_save() -> None:
    """By what was measured where that is known; a block has no width."""
    block, heads, stem = latency_rows.move_lines(record())
    assert [block.name, heads.name, stem.name] == ["layer1.0", "attention", "stem"]
    assert (block.change, block.measured.text) == ("removed", f"{MINUS}1.94 ms")
    assert block.measured.note == f"[{MINUS}2.01, {MINUS}1.87]"
    assert (heads.change, heads.measured.text, heads.damage) == (f"6 {ARROW} 4", numbers.DASH, "1.50")
    assert (stem.predicted, stem.damage) == (f"{MINUS}0.390 ms", "0.0123")
    first, rest = latency_rows.move_lines(record(), most=1)
    assert (first, rest.name, rest.predicted) == (block, "2 other moves", f"{MINUS}1.19 ms")


def test_the_largest_layers_are_named() -> None:
    """The others share a line, and what left with its block has no time."""
    many = [{"name": f"l{at}", "operator": "conv1x1", "before_ms": at + 1.0, "after_ms": 0.5} for at in range(15)]
    lines = latency_rows.layer_lines(record(layers=many))
    assert [line.name for line in lines] == [*(f"l{at}" for at in range(14, 2, -1)), "3 other nodes"]
    assert (lines[-1].before, lines[-1].after, lines[-1].change) == ("6.00 ms", "1.50 ms", f"{MINUS}4.50 ms")
    gone = latency_rows.layer_lines(record())[0]
    assert (gone.name, gone.after, gone.change) == ("layer1.0.conv1", "removed", f"{MINUS}1.90 ms")


@pytest.mark.parametrize("wide", [True, False])
def test_bars_show_both_times(wide: bool) -> None:  # noqa: FBT001 - a parameter
    """Two for each layer, the longest over the whole scale."""
    lines = latency_rows.layer_lines(record())
    drawn = ET.fromstring(latency_plot.layer_times(lines, wide=wide))  # noqa: S314 - the project's own
    bars = list(drawn.iter("{http://www.w3.org/2000/svg}rect"))
    assert [each.get("class") for each in bars] == ["bar before", "bar after"] * 3
    widths = [float(each.get("width") or 0) for each in bars]
    assert widths[2] / widths[0] == pytest.approx(0.81 / 1.9, abs=0.002)
    assert max(widths) == widths[0] < (900 if wide else 360)
    assert not latency_plot.layer_times(())


def test_it_is_not_told_twice(report: RunReport) -> None:
    """What else the stage changed stays among the details; a run without a latency has no section."""
    run = aimed(report, record())
    assert latency_rows.beside(run.rows[1]) == report.rows[1].changed
    assert "latency.moves" not in html.render(run) + markdown.render(run)
    for text in (printed(report), markdown.render(report), html.render(report)):
        assert "Where the milliseconds went" not in text
        assert "bar before" not in text


def test_names_from_a_run_are_text(report: RunReport) -> None:
    """Markup in any of them does not become markup of a page."""
    move = {**RECORD["moves"][0], "name": EVIL, "bought": EVIL}
    layer = {**RECORD["layers"][0], "name": EVIL, "operator": EVIL}
    texts = {"device": EVIL, "precision": EVIL, "undone": [EVIL], "floor": {"factor": 0.1, "why": EVIL}}
    run = aimed(report, record(moves=[move], layers=[layer], **texts))
    found = Page(html.render(run))
    assert "script" not in found.tags
    assert any(EVIL in words for words in found.words)
    written = markdown.render(run).split("```json")[0]
    assert "<script" not in written
    assert "[x](" not in written.replace("\\[", "").replace("\\]", "")
    assert "[red]" in printed(run, 600)


@pytest.mark.parametrize("width", [60, 80])
def test_the_terminal_is_narrow_without_losing_digits(report: RunReport, width: int) -> None:
    """Cells are folded, never cut."""
    text = printed(aimed(report, record()), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert all(part in text for part in (f"{MINUS}1.94", "1.90 ms", "0.347x"))


def test_a_stored_run_is_shown_again(report: RunReport, tmp_path: Path) -> None:
    """`secateur report` of a folder prints the section and writes it into both pages."""
    (tmp_path / "run.json").write_text(aimed(report, record()).model_dump_json())
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0
    for text in (done.output, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert "Where the milliseconds went: stage 1 prune" in text


@pytest.mark.parametrize("wrong", [{"met": "perhaps"}, {"layers": [{}]}, {"predicted": float("nan")}, {"more": 1}])
def test_a_record_of_another_version_is_refused(wrong: dict[str, Any]) -> None:
    """It is not read half."""
    with pytest.raises(ValidationError):
        record(**wrong)
