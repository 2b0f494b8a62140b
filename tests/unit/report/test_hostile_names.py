"""Names with control characters: no output of any kind holds one that a terminal, a page or a server would obey."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from pipeline import cli
from pipeline.bundle import card
from pipeline.cli import app
from pipeline.cli.say import say, say_json
from pipeline.core import interruption
from pipeline.core.errors import InputError
from pipeline.core.printable import printable_json, printable_text
from pipeline.report.console import Console
from pipeline.report.inspection import network_html as inspection_html
from pipeline.report.inspection import network_terminal as inspection_terminal
from pipeline.report.latency import comparison_html, comparison_terminal, gate
from pipeline.report.progress import ConsoleProgress
from pipeline.report.run import html, markdown, terminal
from pipeline.results.run import Effect
from tests.unit.report.inspection.test_network_pages import inspection as an_inspection
from tests.unit.report.latency.test_comparison_pages import compared
from tests.unit.report.latency.test_gate import model, result
from tests.unit.test_damaged_files import small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.results.inspection import Inspection
    from pipeline.results.run import RunReport

#: What names may hold: escape sequences that colour, retitle and answer back, in seven and eight bits; bells, returns
#: and deletions; text that runs the other way; ends of lines that only some programs know; half a character; what no
#: XML holds; ends of an HTML element, a Markdown cell, an annotation, rich's markup.
HOSTILE = (
    *("\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "a\x00b", "over\rwrite", "\x08\x7f", "tab\tand\x0bmore"),
    *("\u202egnp.exe", "\u2066x\u2069", "\u2028next", "\u0085next", "\ud800", "\uffff", "\U000e0041"),
    *("</script><b>", "|cell|`code`", "::error::x", "[/red][bold]", "100%25"),
)
LOUD = "".join(HOSTILE)
#: Names as people have them.
HARMLESS = ("Größe/层.weight", "مدل", "می\u200cشود", "👩\u200d🔬", "a b\u00a0c", "№ 1")
JSON_SAFE = LOUD.replace("\ud800", "")


def harmful(text: str) -> list[str]:
    """Return the characters that should not be there; line ends and tabs are layout."""
    return [
        f"U+{ord(each):04X}"
        for each in text
        if each not in "\n\t"
        and (unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} or each in "\u202e\u2066\u2069\uffff\U000e0041")
    ]


def on_terminal(thing: object) -> str:
    """Return what rich prints on a terminal with colours, without rich's own colours."""
    stream = io.StringIO()
    Console(file=stream, width=200, force_terminal=True, color_system=None).print(thing)
    return stream.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_one_name(name: str) -> None:
    """Escaped once: a second time changes nothing. JSON stays the same value."""
    shown = printable_text(name)
    assert harmful(shown) == []
    assert printable_text(shown) == shown
    told = printable_json(json.dumps({"name": name}, ensure_ascii=False))
    assert harmful(told) == []
    assert json.loads(told) == {"name": name}


@pytest.mark.parametrize("name", HARMLESS)
def test_names_that_people_write_stay(name: str) -> None:
    """Of any script, with its joiners, and spaces that do not break."""
    assert printable_text(name) == name
    assert printable_json(name) == name


def test_line_ends_stay_where_they_are_layout() -> None:
    """And go where a name has one."""
    assert printable_text("a\n\tb") == "a\n\tb"
    assert printable_text("a\n\tb", keep="") == "a\\n\\tb"


@pytest.mark.parametrize("thing", [LOUD, Text(LOUD, "red")], ids=["text", "styled"])
def test_rich_prints_text_as_text(thing: object) -> None:
    """No control character, no markup, in a table, its title and its head as well."""
    table = Table(title=LOUD)
    table.add_column(LOUD)
    table.add_row(thing)  # type: ignore[arg-type]
    for each in (thing, table):
        assert harmful(on_terminal(each)) == []
    assert "[/red][bold]" in on_terminal(thing)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Notes of a run hold names of layers and files."""
    with ConsoleProgress() as progress:
        progress.note(LOUD)
        progress.update(1, 2, LOUD)
    assert harmful(capsys.readouterr().err) == []


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed without rich, and JSON."""
    say(LOUD)
    say(LOUD, err=True)
    say_json(json.dumps({"name": LOUD}, ensure_ascii=False))
    out, err = capsys.readouterr()
    assert harmful(out + err) == []
    assert json.loads(out.splitlines()[-1]) == {"name": LOUD}


def test_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A message names the file as it is called."""

    def fail() -> None:
        raise InputError(f"{LOUD} does not exist")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(interruption, "install", lambda: None)
    with pytest.raises(SystemExit):
        cli.main()
    assert harmful(capsys.readouterr().err) == []


def renamed(report: RunReport) -> RunReport:
    """Return a report in which everything that has a name has a bad one."""
    rows = tuple(
        row.model_copy(
            update={
                "label": JSON_SAFE,
                "config": {JSON_SAFE: JSON_SAFE},
                "changed": {JSON_SAFE: [JSON_SAFE]},
                "effects": (Effect(what="far", judged="worse", why=JSON_SAFE),) if row.index % 2 else (),
                "verdict": JSON_SAFE,
                "folder": JSON_SAFE,
            }
        )
        for row in report.rows
    )
    texts = dict.fromkeys(("name", "recipe_file", "recipe_folder", "error"), JSON_SAFE)
    return report.model_copy(
        update={
            **texts,
            "rows": rows,
            "recipe": {JSON_SAFE: JSON_SAFE},
            "data": {"name": JSON_SAFE, "train": 1},
            "machine": {"cpu_model": JSON_SAFE},
            "status": "failed",
        }
    )


def pages(report: RunReport, inspection: Inspection) -> Iterator[tuple[str, str]]:
    """Yield every output by name."""
    hostile = renamed(report)
    yield "run, Markdown", markdown.render(hostile)
    yield "run, HTML", html.render(hostile)
    yield "run, terminal", on_terminal(terminal.run_table(hostile))
    found, measurement = compared(label=JSON_SAFE)
    yield "comparison, Markdown", comparison_html.markdown(found)
    yield "comparison, HTML", comparison_html.render(found, measurement)
    yield "comparison, terminal", on_terminal(comparison_terminal.comparison_summary(found))
    gated = result(model(JSON_SAFE, "FAIL", JSON_SAFE))
    yield "gate, Markdown", gate.markdown(gated)
    yield "gate, terminal", on_terminal(gate.gate_summary(gated))
    yield "gate, annotations", "\n".join(gate.github_lines(gated))
    yield "gate, JUnit", gate.junit_xml(gated)
    group = inspection.groups[0].model_copy(update={"name": JSON_SAFE, "makers": (JSON_SAFE,)})
    network = inspection.model_copy(update={"name": JSON_SAFE, "groups": (group, *inspection.groups[1:])})
    yield "network, HTML", inspection_html.render(network)
    yield "network, terminal", on_terminal(inspection_terminal.network_table(network, 200))
    yield "card", card.escape(JSON_SAFE)


inspection = an_inspection


def test_every_page(report: RunReport, inspection: Inspection) -> None:
    """All outputs at once: what slips through one is named."""
    wrong = {name: found for name, text in pages(report, inspection) if (found := harmful(text))}
    assert wrong == {}


def test_pages_keep_their_form(report: RunReport, inspection: Inspection) -> None:
    """Names end no element, no cell and no annotation."""
    found = dict(pages(report, inspection))
    for name in ("run, HTML", "comparison, HTML", "network, HTML"):
        assert "</script><b>" not in found[name]
    (case,) = ET.fromstring(found["gate, JUnit"].encode())[0]  # noqa: S314 - written here
    assert case.get("name") == printable_text(JSON_SAFE)
    assert len(found["gate, annotations"].splitlines()) == 1
    (row,) = [line for line in found["gate, Markdown"].splitlines() if "FAIL" in line and line.startswith("|")]
    assert row.replace("\\|", "").count("|") == 7


COMMANDS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "run": lambda name: ("run", name),
    "validate": lambda name: ("validate", name),
    "compare": lambda name: ("compare", name, name),
    "inspect": lambda name: ("inspect", name),
    "verify": lambda name: ("verify", name),
    "set": lambda name: ("validate", "recipe.yaml", "--set", f"{name}=1"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(tmp_path: Path, command: str) -> None:
    """Files that are not there, by their bad names, in a process of its own: also bytes that are no text."""
    (tmp_path / "recipe.yaml").write_text("format: 1\n")
    name = (b"\x1b[31m\xff\xc2\x9b" + command.encode() + b".onnx").decode(errors="surrogateescape")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *COMMANDS[command](name)], cwd=tmp_path, check=False, capture_output=True
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert harmful(done.stdout.decode() + done.stderr.decode()) == []


def test_a_layer_with_an_escape_sequence(tmp_path: Path) -> None:
    """An ONNX file's nodes may be called anything: table, JSON and page."""
    network: Any = small()
    network.graph.node[0].name = JSON_SAFE
    path = tmp_path / "\x1b[31mnet.onnx"
    path.write_bytes(network.SerializeToString())
    page = tmp_path / "page.html"
    for options in ((), ("--json",), ("--html", str(page))):
        done = CliRunner().invoke(app, ["inspect", str(path), "--runs", "0", *options])
        assert done.exit_code == 0, done.output
        assert harmful(done.output) == []
    assert harmful(page.read_text()) == []
