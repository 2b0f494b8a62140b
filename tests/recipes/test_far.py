"""A quantized file that is far from its float file in a whole run: exit code, table, pages, and bundle say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.results.run_folder import read_run
from tests.unit.stages.test_far import break_engines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from pipeline.results.run import RunReport
    from tests.project import Project

STAGES = """\
  - {kind: export, to: onnx}
  - {kind: quantize, images: 32, scheme: u8s8-reduced, on_far: ON_FAR}
  - {kind: export, to: openvino}
  - {kind: bundle, samples: 2, weights_licence: LicenseRef-Toy}
"""
WHY = "dB of signal to noise where at least 10 are expected on"


@pytest.fixture
def run(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    """Return what runs the recipe in this process, with engines that are broken."""
    break_engines(monkeypatch, "fc")
    monkeypatch.setenv("SECATEUR_STORE", str(project.folder / "store"))
    monkeypatch.setenv("COLUMNS", "240")
    head, _, _ = project.recipe.read_text().partition("stages:")

    def run(on_far: str) -> Result:
        project.recipe.write_text(f"{head}stages:\n{STAGES.replace('ON_FAR', on_far)}")
        return CliRunner().invoke(app, ["run", str(project.recipe), "--out", str(project.folder / "run"), "--no-test"])

    return run


def texts(folder: Path) -> dict[str, str]:
    """Return every form of the report."""
    return {name: (folder / name).read_text() for name in ("report.md", "report.html")}


def report(folder: Path) -> RunReport:
    """Return the run that lies in a folder."""
    return read_run(folder)[0]


def test_a_run_ends_with_code_3_and_goes_on_when_the_recipe_changes(
    run: Callable[[str], Result], project: Project
) -> None:
    """Nothing ships; what was made before is kept. Then with the guilty layer in float, and last as it is."""
    folder = project.folder / "run"
    done = run("fail")
    assert done.exit_code == 3
    assert WHY in done.output
    assert "on_far: float" in done.output
    assert report(folder).status == "failed"
    assert not (folder / "bundle").exists()
    assert all(WHY in text for text in texts(folder).values())

    done = run("float")
    assert done.exit_code == 0, done.output
    verdict = report(folder).rows[2].verdict
    assert verdict.startswith("back in float: fc (in fewer bits: ")
    assert "back in float" in done.output
    assert all("back in float" in text and "Not the same network" not in text for text in texts(folder).values())
    assert "Not the network" not in (folder / "bundle" / "MODEL_CARD.md").read_text()

    done = run("keep")
    assert done.exit_code == 0, done.output
    assert report(folder).rows[2].verdict.startswith("far from the float file: ")
    for text in (done.output, *texts(folder).values()):
        assert "Not the same network: row 2 (quantize) is far from the float file" in text
    card = (folder / "bundle" / "MODEL_CARD.md").read_text()
    assert "**Not the network that was trained.** Its outputs are far from the float file: " in card
    assert "far from the float file" in (folder / "bundle" / "manifest.json").read_text()
