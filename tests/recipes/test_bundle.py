"""From a recipe to a bundle, as a person does it: run, bundle, verify, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import SecateurError
from pipeline.results.bundle import Manifest
from pipeline.results.run_folder import read_run
from tests.unit.bundle.tampering import sha256
from tests.unit.bundle.test_archive import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.project import Project

pytestmark = pytest.mark.slow

STAGES = """\
stages:
  - {kind: export, to: onnx}
  - {kind: quantize, images: 32}
  - {kind: export, to: openvino}
  - {kind: measure, budget: 300ms}
  - {kind: bundle, samples: 3, weights_licence: LicenseRef-Toy}
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Project:
    """Return a project whose recipe has run to its bundle."""
    project = new_project(tmp_path_factory.mktemp("shipped"))
    project.stages(STAGES)
    done = project.command("run", "toy.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    (project.folder / "printed.txt").write_text(done.stdout)
    return project


@pytest.fixture
def run(shipped: Project, tmp_path: Path) -> Path:
    """Return a copy of the run's folder that a test may change."""
    shutil.copytree(shipped.folder / "run", tmp_path / "run")
    return tmp_path / "run"


def bundle(run: Path, *options: str) -> dict[str, Any]:
    """Start `secateur bundle RUN --json`."""
    done = CliRunner().invoke(app, ["bundle", str(run), *options, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def refusal(run: Path, *options: str) -> str:
    """Return the message with which `secateur bundle` refuses, which has exit code 2."""
    with pytest.raises(SecateurError) as error:
        CliRunner().invoke(app, ["bundle", str(run), *options], catch_exceptions=False)
    assert error.value.exit_code == 2
    return str(error.value)


def test_the_run_ends_with_a_bundle(shipped: Project) -> None:
    """Folder and archive are there, run.json and every report tell of them, and they verify."""
    report, folder = read_run(shipped.folder / "run")
    assert report.bundle is not None
    assert report.bundle.digest == f"sha256:{sha256(folder / 'bundle' / 'SHA256SUMS')}"
    assert report.bundle.archive_bytes == (folder / "bundle.tar.gz").stat().st_size
    assert report.rows[-1].verdict == "ships the files above"
    texts = [(folder / f"report.{form}").read_text() for form in ("md", "html", "json")]
    for text in (*texts, (shipped.folder / "printed.txt").read_text().replace("\n", "")):
        assert report.bundle.digest in text
    for place in ("bundle", "bundle.tar.gz"):
        done = shipped.command("verify", f"run/{place}", "--digest", report.bundle.digest)
        assert done.returncode == 0, done.stderr


def test_the_bundle_needs_nothing_of_the_project(shipped: Project, tmp_path: Path) -> None:
    """A copy elsewhere verifies itself and classifies an image, in an interpreter that does not see the project."""
    shutil.copytree(shipped.folder / "run" / "bundle", tmp_path / "bundle")
    hidden = (
        "import runpy, sys; sys.modules['pipeline'] = None; sys.argv = {0}; runpy.run_path({0}[0], None, '__main__')"
    )
    for arguments in (
        ["verify.py"],
        ["infer.py", "samples/0.png"],
        ["infer.py", "samples/0.png", "--runtime", "openvino"],
    ):
        command = [sys.executable, "-B", "-c", hidden.format(arguments)]
        done = subprocess.run(command, cwd=tmp_path / "bundle", check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_manifest_of_a_run(shipped: Project) -> None:
    """Lineage, final test, timings of the shipped files in their runtimes, licences."""
    folder = shipped.folder / "run"
    report, _ = read_run(folder)
    manifest = Manifest.model_validate_json((folder / "bundle" / "manifest.json").read_text(), strict=True)
    assert [record.kind for record in manifest.lineage] == ["export", "quantize", "export"]
    assert manifest.accuracy.test == report.final
    assert manifest.accuracy.validation_result == report.rows[2].validation
    shown = {(each.label, each.file, each.timing.runtime) for each in manifest.latency}
    assert shown == {
        ("original", None, "onnxruntime"),
        ("original", None, "openvino"),
        ("quantize", "model/model.onnx", "onnxruntime"),
        ("export openvino", "model/model.xml", "openvino"),
    }
    assert manifest.machine["cpu_model"] == report.machine["cpu_model"]
    assert manifest.licences.weights == "LicenseRef-Toy"
    assert manifest.recipe == report.recipe
    home = str(shipped.folder)
    assert not [
        path for path in (folder / "bundle").rglob("*") if path.is_file() and home.encode() in path.read_bytes()
    ]


def test_the_same_run_gives_the_same_bytes(shipped: Project, run: Path) -> None:
    """By the command, from another folder, time zone, language and umask; and from the store into another folder."""
    first = {**files(run / "bundle"), "archive": sha256(run / "bundle.tar.gz")}
    for path in (run / "stages").rglob("*"):
        os.utime(path, (1, 1))
    odd = {"TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "pipeline", "bundle", str(run)]
    done = subprocess.run(
        command, cwd="/", env={**shipped.environment, **odd}, check=False, capture_output=True, text=True, umask=0o077
    )
    assert done.returncode == 0, done.stderr
    assert {**files(run / "bundle"), "archive": sha256(run / "bundle.tar.gz")} == first
    again = shipped.command("run", "toy.yaml", "--out", "again")
    assert again.returncode == 0, again.stderr
    other = shipped.folder / "again"
    assert {**files(other / "bundle"), "archive": sha256(other / "bundle.tar.gz")} == first


def test_options_of_the_command_come_first(run: Path, tmp_path: Path) -> None:
    """Those that are left out are the stage's own."""
    told = bundle(run, "--out", str(tmp_path / "small"), "--samples", "1", "--runtime", "openvino")
    assert told["places"] == [str(tmp_path / "small")]
    manifest = Manifest.model_validate_json((tmp_path / "small" / "manifest.json").read_text())
    assert (manifest.runtime, dict(manifest.main)) == ("openvino", {"openvino": "model/model.xml"})
    assert manifest.licences.weights == "LicenseRef-Toy"
    assert len(list((tmp_path / "small" / "samples").glob("*.png"))) == 1
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "small")]).exit_code == 0


def test_an_archive_alone(run: Path, tmp_path: Path) -> None:
    """A name that ends in .tar.gz is an archive; the run's report stays as it was."""
    before = (run / "run.json").read_bytes()
    told = bundle(run, "--out", str(tmp_path / "new" / "cells.tar.gz"), "--data-licence", "CC0-1.0")
    assert CliRunner().invoke(app, ["verify", told["places"][0], "--digest", told["digest"]]).exit_code == 0
    assert (run / "run.json").read_bytes() == before


def test_in_the_run_the_report_follows(run: Path) -> None:
    """Made again with other options, run.json and the report tell the new digest."""
    told = bundle(run, "--samples", "2")
    report, _ = read_run(run)
    assert report.bundle is not None
    assert report.bundle.digest == told["digest"]
    assert told["digest"] in (run / "report.md").read_text()


def test_without_the_final_test(shipped: Project) -> None:
    """A run that left the test split alone can ship; the manifest has no test accuracy, and that is said."""
    done = shipped.command("run", "toy.yaml", "--out", "untested", "--no-test")
    assert done.returncode == 0, done.stderr
    assert "has no test accuracy" in done.stderr
    manifest = Manifest.model_validate_json((shipped.folder / "untested" / "bundle" / "manifest.json").read_text())
    assert manifest.accuracy.test is None
    assert manifest.accuracy.validation_result is not None


def test_what_cannot_be_bundled(run: Path, tmp_path: Path) -> None:
    """Each with one message that says what to do."""
    assert "no run.json" in refusal(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work\n")
    assert "taken exists and is not a bundle" in refusal(run, "--out", str(tmp_path / "taken"))
    assert "no.key" in refusal(run, "--sign", str(tmp_path / "no.key"))
    assert "onnxruntime, openvino" in refusal(run, "--runtime", "tensorrt")
    assert "data_licence" in refusal(run, "--data-licence", "")
    shutil.rmtree(run / "stages" / "02-quantize")
    assert "run the recipe again" in refusal(run)


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"status": "interrupted"}, "interrupted"),
        ({"status": "failed", "error": "no tea"}, "no tea"),
        ({"recipe_folder": ""}, "run its recipe again"),
        ({"recipe_folder": "/nowhere"}, "/nowhere"),
        ({"data": {"digest": "0" * 64}}, "data"),
        ({"rows": []}, "exports no file"),
    ],
)
def test_runs_that_are_not_as_they_should_be(run: Path, update: dict[str, Any], says: str) -> None:
    """Unfinished, failed, of an earlier version, with other data, without any file."""
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, **update}))
    assert says in refusal(run)
