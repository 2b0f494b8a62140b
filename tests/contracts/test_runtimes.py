"""Runtimes and forms stand in one table: nothing else knows their names, and a made-up one goes all the way."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.bundle.on_device import infer, verify
from pipeline.bundle.selection import shipping_rows
from pipeline.core import runtimes
from pipeline.core.errors import InputError, RecipeError
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.store import Store
from pipeline.measure import harness
from pipeline.measure.devices.local import LocalDevice
from pipeline.recipe import LoadedRecipe, load_recipe
from pipeline.report import write_report
from pipeline.report.run.gains import result
from pipeline.results.bundle import BundleOptions
from pipeline.run import no_gain
from pipeline.run.runner import Run
from pipeline.stages.measure import Measure
from tests.contracts import abacus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.project import Project

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"
#: Adapters of a runtime, facts of one, what is about one by its nature (an engine, a kernel's rounding, an export), and
#: the code of bundles, which imports nothing.
OWN = (
    "core/runtimes.py",
    "measure/runtimes/",
    "analysis/onnxruntime_times.py",
    "analysis/openvino_times.py",
    "bundle/on_device/",
    "bundle/tolerance.py",
    "compress/quantization/engines/",
    "compress/quantization/names.py",
    "precision/",
    "stages/export.py",
    "stages/quantize.py",
    "api/__init__.py",
)
NAMES = {"onnxruntime", "openvino"}


def literals(file: Path) -> list[int]:
    """Return the lines of a file that hold the name of a runtime as a text, but for lists of libraries."""
    tree = ast.parse(file.read_text())
    versions = [
        node
        for each in ast.walk(tree)
        if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == "libraries"
        for node in ast.walk(each)
    ]
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in NAMES]
    return [node.lineno for node in found if node not in versions]


def test_no_other_file_names_a_runtime() -> None:
    """Whoever has to know what reads what asks the table."""
    files = {file.relative_to(PIPELINE).as_posix(): file for file in PIPELINE.rglob("*.py")}
    assert len(files) > 300
    named = {name: lines for name, file in files.items() if not name.startswith(OWN) and (lines := literals(file))}
    assert named == {}


def test_the_code_of_bundles_has_the_names_of_the_table() -> None:
    """It imports nothing of this program, and so has them again."""
    assert runtimes.shipping_runtimes() == verify.RUNTIMES
    facts = {name: runtimes.RUNTIMES[name] for name in verify.RUNTIMES}
    mains = {name: tuple(runtimes.FORMS[form].main for form in each.reads) for name, each in facts.items()}
    assert mains == infer.MODELS


@pytest.mark.parametrize(
    ("forms", "wanted", "runtime"),
    [
        ("onnx", "onnxruntime", "onnxruntime"),
        ("onnx", "openvino", "openvino"),
        ("onnx", "torch", "onnxruntime"),
        ("openvino", "onnxruntime", "openvino"),
        (("onnx", "openvino"), "onnxruntime", "openvino"),
        ("torch", "openvino", "torch"),
    ],
)
def test_what_runs_a_file(forms: str | tuple[str, ...], wanted: str, runtime: str) -> None:
    """The target's runtime where it reads the form, else the form's own."""
    assert runtimes.runtime_for(forms, wanted) == runtime


@pytest.mark.parametrize(
    ("forms", "wanted", "index"),
    [
        (("torch", "onnx", "openvino"), "onnxruntime", 1),
        (("torch", "onnx", "openvino"), "openvino", 2),
        (("torch", "onnx", "openvino"), "torch", 1),
        (("torch", "torch"), "openvino", 1),
    ],
)
def test_the_last_file_that_is_read(forms: tuple[str, ...], wanted: str, index: int) -> None:
    """A torch network is judged on an ONNX file."""
    assert runtimes.last_readable(forms, wanted) == index


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the runtime for one test, in this process and in workers."""
    forms, table = dict(runtimes.FORMS), dict(runtimes.RUNTIMES)
    monkeypatch.setattr(abacus.Abacus, "opened", 0)
    abacus.register(runtimes.FORMS, runtimes.RUNTIMES)
    monkeypatch.setattr(harness, "local_device", lambda _: LocalDevice(module=abacus.__name__))
    monkeypatch.setenv("PYTHONPATH", str(PIPELINE.parent))
    yield
    for kept, now in ((forms, runtimes.FORMS), (table, runtimes.RUNTIMES)):
        now.clear()
        now.update(kept)


@pytest.mark.usefixtures("third")
def test_a_made_up_runtime_goes_all_the_way(project: Project) -> None:
    """Its files are judged, timed, asked for a gain, told and shipped by itself: nothing falls to another runtime."""
    overrides = ["stages=[{kind: export, to: onnx}]", "data.arguments={train: 16}", "target.runtime=abacus"]
    with pytest.raises(RecipeError, match=r'target\.runtime: found "abacus", which reads none of the files \(onnx\)'):
        load_recipe(project.recipe, overrides)
    loaded = load_recipe(project.recipe, overrides[:2])
    measure = Measure(runtimes=("abacus",), budget="200ms")
    recipe = loaded.recipe.model_copy(
        update={"target": Target(runtime="abacus"), "stages": (*loaded.recipe.stages, abacus.ToBeads(), measure)}
    )
    run = Run(
        LoadedRecipe(recipe, loaded.path, loaded.digest, loaded.raw),
        project.folder / "run",
        Store(project.folder / "store"),
        progress=SilentProgress(),
    )
    report = run.execute()
    rows = {row.label: row for row in report.rows}
    assert rows["beads"].form == "beads"
    assert rows["beads"].validation == rows["export onnx"].validation
    assert rows["beads"].macs == rows["export onnx"].macs
    assert [(each.runtime, each.threads) for each in rows["beads"].timings] == [("abacus", 1)]
    assert rows["export onnx"].timings == ()
    assert result(report).label == "beads"
    assert abacus.Abacus.opened >= 2
    assert run.evaluator.runtime_of(run.artifacts[2]) == "abacus"
    assert no_gain.timed_in(run.artifacts[2], run.artifacts[2], recipe.target) == "abacus"
    with pytest.raises(InputError, match="no runtime reads beads and onnx"):
        no_gain.timed_in(run.artifacts[1], run.artifacts[2], recipe.target)
    assert run.plan.steps[2].ingredients["versions"] == {"numpy": run.plan.steps[2].ingredients["versions"]["numpy"]}
    shipped = shipping_rows(report, BundleOptions())
    assert {name: row.label for name, row in shipped.items()} == {"onnxruntime": "export onnx", "abacus": "beads"}
    write_report(report, project.folder / "run")
    assert "abacus" in (project.folder / "run" / "report.md").read_text()
