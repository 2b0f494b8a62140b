"""The command frontier: table, page and JSON of what its runs found, exit codes, and one message for every mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline import api
from pipeline.cli import app
from pipeline.core.errors import InputError
from pipeline.core.stage import Target
from pipeline.report.numbers import DASH, MINUS
from pipeline.results.frontier import Frontier, FrontierFile, FrontierPoint
from pipeline.results.run import Interval, Score
from pipeline.run.frontier import FrontierRun

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.project import Project

STAGES = "stages:\n  - {kind: prune, target: {latency: 0.9x}}\n  - {kind: export, to: onnx}\n"


def interval(value: float) -> Interval:
    """Return an estimate that is known to a tenth."""
    return Interval(value=value, low=0.9 * value, high=1.1 * value)


def score(value: float) -> Score:
    """Return an accuracy of a hundred images."""
    return Score.model_validate({"images": 100, "accuracy": value})


LOST = FrontierPoint(target="0.1x", folder="0.1x", status="unreachable", why="about 0.2x <is> left")
POINTS = (
    FrontierPoint(
        target="0.5x",
        folder="0.5x",
        ratio=interval(0.5),
        asked_ratio=0.5,
        met=True,
        original_ratio=interval(0.25),
        milliseconds=interval(1.0),
        score=score(0.875),
        change=-0.025,
        size_bytes=12_300,
        pareto=True,
    ),
    FrontierPoint(
        target="0.4x",
        folder="0.4x",
        ratio=interval(0.45),
        asked_ratio=0.4,
        met=False,
        milliseconds=interval(2.0),
        score=score(0.5),
    ),
    LOST,
)
FOUND = Frontier(
    name="<toy>",
    recipe_file="toy.yaml",
    stage=0,
    target=Target(),
    seed=0,
    original=FrontierFile(milliseconds=interval(4.0), score=score(0.9), size_bytes=100_000),
    points=POINTS,
)


def frontier(folder: Path, *arguments: object) -> Result:
    """Run the command in this process, in a wide terminal."""
    options = ["frontier", str(folder / "toy.yaml"), "--out", str(folder / "all"), *map(str, arguments)]
    return CliRunner().invoke(app, options, env={"COLUMNS": "160"})


def finds(monkeypatch: pytest.MonkeyPatch, found: Frontier) -> None:
    """Have the runs find this."""

    def execute(runs: FrontierRun) -> Frontier:
        runs.write(found)
        return found

    monkeypatch.setattr(FrontierRun, "execute", execute)


@pytest.fixture
def made(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the runs be finished; return the project's folder."""
    project.stages(STAGES)
    (project.folder / "all").mkdir()
    finds(monkeypatch, FOUND)
    return project.folder


def test_table_and_picture(made: Path) -> None:
    """Each number with its interval or change below it; a missed target and one that has no file say so."""
    done = frontier(made, "--latency", "0.5x,0.4x,0.1x")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    for expected in (
        f"original {DASH} {DASH} 4.00 ms 90.00 % 100 kB",
        "0.5x 0.500x 0.250x 1.00 ms 87.50 % 12.3 kB yes",
        f"[0.450, 0.550] [0.225, 0.275] [0.90, 1.10] {MINUS}2.50",
        "0.1x: unreachable: about 0.2x <is> left",
        f"Picture: {made / 'all' / 'frontier.html'}",
    ):
        assert expected in lines
    assert "[0.405, 0.495] missed" in done.output
    page = (made / "all" / "frontier.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count('class="symbol result"') == page.count('class="symbol original"') == 2  # wide and narrow
    assert "&lt;toy&gt;" in page
    assert "<toy>" not in page


def test_json_is_the_documented_structure(made: Path) -> None:
    """It reads back as the type whose schema the program prints; Python gives the same."""
    done = frontier(made, "--json", "--no-test")
    assert Frontier.model_validate_json(done.stdout) == FOUND
    assert '"FrontierPoint"' in CliRunner().invoke(app, ["schema", "frontier"]).stdout
    assert api.frontier(made / "toy.yaml", ["0.5x"], made / "all", store=made / "store") == FOUND


@pytest.mark.parametrize(("states", "code"), [(("unreachable",), 2), (("finished", "failed"), 3)])
def test_exit_codes(made: Path, monkeypatch: pytest.MonkeyPatch, states: tuple[str, ...], code: int) -> None:
    """Nothing that could be reached is bad input; a stage that failed is told, whatever else was found."""
    points = tuple(LOST.model_copy(update={"status": state}) for state in states)
    finds(monkeypatch, FOUND.model_copy(update={"points": points}))
    assert frontier(made).exit_code == code
    assert "<svg" not in (made / "all" / "frontier.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--latency", "0.5"), "latency: found"),
        (("--latency", "0.5x,,"), "latency: found"),
        (("--stage", 1), "stage: found 1, allowed: stages.0"),
        (("--set", "stages=[{kind: prune, ratio: 0.5}]"), "has no prune stage with a target"),
        (("--set", "target.device=qemu://cortex-a72"), "which is emulated"),
        (("--set", "target.runtime=torch"), "target.runtime torch, which reads none"),
    ],
)
def test_what_cannot_be_run(made: Path, options: tuple[object, ...], message: str) -> None:
    """One message, before anything runs."""
    done = frontier(made, *options)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
