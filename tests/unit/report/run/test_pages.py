"""The report in the terminal, as Markdown and as HTML says the same, and nothing from a run is taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from pipeline.report import numbers
from pipeline.report.run import facts, headline, html, markdown, rows, terminal
from pipeline.results.run import BundleRecord, Effect

if TYPE_CHECKING:
    from pipeline.results.run import RunReport

GOLDEN = Path(__file__).parents[3] / "cases" / "report.md"
EVIL = "<script>alert(1)</script>[x](javascript:alert(1))|`*{{ 7 * 7 }}[red]"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; `unclosed` is empty when every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.unclosed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag of SVG that closes itself."""
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag, which has to be this one."""
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.words.append(" ".join(data.split()))


def _printed(report: RunReport, width: int = 120) -> str:
    """Return what the terminal shows."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal.run_table(report))
    return capture.get()


def _numbers(report: RunReport) -> set[str]:
    """Return every text of the stage table that holds a number."""
    found: set[str] = set()
    for line in rows.lines(report):
        found |= {line.accuracy.text, line.accuracy.note, line.latency.text, line.latency.note, line.speedup.text}
        found |= {line.speedup.note, line.macs, line.parameters, line.raw, line.gzip}
    return found - {"", numbers.DASH}


def test_every_number_stands_in_every_form(report: RunReport) -> None:
    """The stage table's numbers are the same in the terminal, in Markdown and in HTML."""
    told = _numbers(report)
    assert len(told) > 30
    for text in (_printed(report), markdown.render(report), html.render(report)):
        assert [number for number in sorted(told) if number not in text] == []


def test_every_timing_of_every_runtime_is_told(report: RunReport) -> None:
    """The second table has wall and CPU time of every file in every runtime, and marks what was contended."""
    cells = [cell for _, _, cells in rows.runtime_table(report).files for cell in cells]
    told = {text for cell in cells for text in vars(cell).values() if isinstance(text, str) and text}
    assert len(told) > 30
    for text in (markdown.render(report), html.render(report)):
        assert [number for number in sorted(told) if number not in text] == []
        assert "contended" in text
        assert rows.PAIRED.split("'", maxsplit=1)[0] in text


def test_final_test_and_budget_are_told(report: RunReport) -> None:
    """The paired difference is a sentence, and each line of the budget has its verdict."""
    minus = numbers.MINUS
    for text in (_printed(report), markdown.render(report), html.render(report)):
        assert f"{minus}0.46 points [{minus}1.4, +0.5] on the same 656 images" in text
        for line in report.budget:
            assert line.asked in text
            assert line.found in text
            assert line.verdict in text
    for text in (markdown.render(report), html.render(report)):
        assert {"88.11 %", "87.65 %", "87.11 %", "86.52 %", "84.54 %", "83.91 %"} <= set(
            re.findall(r"\d+\.\d+ %", text)
        )


def test_stage_that_bought_nothing_is_seen(report: RunReport) -> None:
    """It is marked in every form; in HTML its whole row is."""
    assert "4 simplify" in _printed(report)
    assert re.search(r"4 simplify +bought nothing", _printed(report))
    assert "**simplify** | **bought nothing**" in markdown.render(report)
    assert html.render(report).count('class="stage idle"') == 2


def test_skipped_stage_is_seen_with_its_figures(report: RunReport) -> None:
    """Every form says that it was skipped and with which interval."""
    skipped = report.rows[4].model_copy(update={"effects": (Effect(what="no gain", why="0.98x [0.96, 1.01]"),)})
    changed = report.model_copy(update={"rows": (*report.rows[:4], skipped, *report.rows[5:])})
    for text in (_printed(changed), markdown.render(changed).replace("\\", ""), html.render(changed)):
        assert "skipped: no gain" in text
        assert "0.98x [0.96, 1.01]" in text


def test_unfinished_run_says_so_and_keeps_its_rows(report: RunReport) -> None:
    """A failed run shows its error and the rows that it has."""
    changes = {"status": "failed", "error": "parity 0.31 is above 0.05", "rows": report.rows[:6], "final": None}
    failed = report.model_copy(update=changes)
    for text in (_printed(failed), markdown.render(failed), html.render(failed)):
        assert "Failed: parity 0.31 is above 0.05. The 6 rows so far are kept and valid." in text
        assert "quantize" in text


@pytest.mark.parametrize("kept", [0, 1])
def test_run_that_failed_at_once_still_has_a_report(report: RunReport, kept: int) -> None:
    """With no row, or the original alone, there is a page that says what happened."""
    changes: dict[str, Any] = {"status": "failed", "error": "no such file", "rows": report.rows[:kept], "final": None}
    failed = report.model_copy(update={**changes, "budget": (), "machine": {}, "data": {}})
    for text in (_printed(failed), markdown.render(failed), html.render(failed)):
        assert "no such file" in text


def test_page_needs_nothing_from_outside(report: RunReport) -> None:
    """No script, no style sheet, no font and no image is loaded, and links stay on the page."""
    page = Page(html.render(report))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    linked = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert len(linked) > 8
    assert all(value.startswith("#") for value in linked)
    style = html.render(report).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_page_is_closed_properly_and_its_links_have_ends(report: RunReport) -> None:
    """Every tag is closed in order, and what a link names is there once."""
    page = Page(html.render(report))
    assert page.unclosed == []
    ends = [value for name, value in page.attributes if name == "id"]
    assert len(ends) == len(set(ends))
    assert {value.removeprefix("#") for name, value in page.attributes if name == "href"} <= set(ends)


def test_page_has_details_of_every_row(report: RunReport) -> None:
    """Widths, certificate, settings, digests and the whole recipe can be unfolded."""
    words = Page(html.render(report)).words
    told = {"widths.head", f"1280 {numbers.ARROW} 704", "3.1e-06", "round_to", "5" * 64, report.recipe_digest}
    assert told <= set(words)
    assert " ".join(facts.recipe_text(report).split()) in words


def test_names_from_a_run_are_text_in_html(report: RunReport) -> None:
    """Markup in any name, label, key, verdict or error does not become markup of the page."""
    text = html.render(_poisoned(report))
    assert "<script" not in text
    page = Page(text)
    assert "script" not in page.tags
    assert page.unclosed == []
    assert any(EVIL in words for words in page.words)
    assert "49" not in set(page.words)


def test_names_from_a_run_are_text_in_markdown(report: RunReport) -> None:
    """Tags are escaped outside the recipe's code block, links are none, and cells stay cells."""
    text = markdown.render(_poisoned(report)).split("```json")[0]
    assert "<script" not in text
    assert "[x](" not in text.replace("\\[", "").replace("\\]", "")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    stage_table = table[: len(report.rows) + 2]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in stage_table} == {13}


def test_names_from_a_run_are_text_in_the_terminal(report: RunReport) -> None:
    """Rich's markup in a name is printed, not obeyed."""
    assert "[red]" in _printed(_poisoned(report), width=400)


@pytest.mark.parametrize("width", [60, 80])
def test_terminal_loses_no_digit_when_narrow(report: RunReport, width: int) -> None:
    """Cells are folded, never cut: no ellipsis stands for digits."""
    text = _printed(report, width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert all(part in text for part in ("87.65", "21.4", "[21.2,", "21.6]", "1.79x", "13.5", "12.5"))


def test_contended_latency_is_marked_in_the_stage_table(report: RunReport) -> None:
    """A latency in the target runtime that cannot be trusted is marked where it stands."""
    row = report.rows[5]
    doubtful = row.model_copy(update={"timings": (row.timings[0].model_copy(update={"contended": True}),)})
    changed = report.model_copy(update={"rows": (*report.rows[:5], doubtful)})
    assert rows.lines(changed)[5].contended
    assert headline.answers(changed)[0].tone == "unsure"
    assert '<span class="chip unsure">contended</span>' in html.render(changed)
    assert "[11.1, 11.3] contended" in markdown.render(changed)
    assert "contended" in _printed(changed)


def test_markdown_is_the_one_that_was_looked_at(report: RunReport) -> None:
    """The whole Markdown report of the example run is as it was when a person last read it."""
    assert markdown.render(report) == GOLDEN.read_text(encoding="utf-8")


def _poisoned(report: RunReport) -> RunReport:
    """Return the report with hostile text wherever a run could bring text in."""
    back = Effect(what="back in float", judged="unsure", names=(EVIL,), why=EVIL)
    poison = {"label": EVIL, "verdict": EVIL, "config": {EVIL: EVIL}, "changed": {EVIL: {EVIL: EVIL}}}
    bad = [row.model_copy(update={**poison, "effects": (back,) if row.index % 2 else ()}) for row in report.rows]
    budget = [line.model_copy(update={"asked": EVIL, "found": EVIL}) for line in report.budget]
    changes = {"name": EVIL, "recipe_file": EVIL, "recipe_digest": EVIL, "error": EVIL, "status": "failed"}
    texts = {"machine": {"cpu_model": EVIL, "isa": [EVIL]}, "data": {"name": EVIL}, "versions": {EVIL: EVIL}}
    return report.model_copy(update={**changes, **texts, "rows": tuple(bad), "budget": tuple(budget)})


def test_bundle_of_a_run(report: RunReport) -> None:
    """Markdown and HTML say which archive, how large, and its digest; without a bundle there is no line."""
    record = BundleRecord(folder="bundle", archive="bundle.tar.gz", archive_bytes=204_800, digest=f"sha256:{'7' * 64}")
    shipped = report.model_copy(update={"bundle": record})
    for render in (markdown.render, html.render):
        text = render(shipped)
        assert all(part in text for part in ("bundle.tar.gz", numbers.size(204_800), record.digest))
        assert "bundle.tar.gz" not in render(report)
    assert facts.bundle_facts(record, Path("runs/demo")).startswith("runs/demo/bundle.tar.gz, ")
