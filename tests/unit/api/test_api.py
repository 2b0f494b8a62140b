"""Runs from Python: what a recipe's values become, results and networks of a run, and refusals before anything runs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import TYPE_CHECKING, get_args

import pytest
import torch

from pipeline import api
from pipeline.api import Export, Finetune, Measure, Prune, Quantize, Recipe, Result, Simplify
from pipeline.bundle.on_device.verify import Rejected
from pipeline.core.errors import DeviceError, InputError, OutputsError, RecipeError, ResourceError
from pipeline.latency.networks import write_one_operator, write_small_cnn
from pipeline.recipe import load_recipe
from pipeline.stages import AnyStage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "onnxsim", "onnxscript"}


def toy(**changes: object) -> Recipe:
    """Return the recipe of the toy project as values."""
    given: dict[str, object] = {
        "name": "toy",
        "model": {"definition": "model.py", "arguments": {"classes": 2}},
        "data": {"source": "file", "path": "data.py"},
        "target": {"runtime": "onnxruntime", "threads": 1},
        "stages": [
            Prune(ratio=0.5, align=4),
            Finetune(epochs=3, batch=16, learning_rate=0.01),
            Export(to="onnx"),
            Simplify(),
            Quantize(images=32),
            Export(to="openvino"),
            Measure(budget="300ms"),
        ],
    }
    return Recipe(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a toy project, which is the current one."""
    monkeypatch.chdir(project.folder)
    return project.folder


def test_a_run_of_values_is_the_run_of_the_yaml(
    finished: tuple[Project, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After the command ran the YAML, everything is in the store for the same values, and the rows are the same."""
    project, _ = finished
    monkeypatch.chdir(project.folder)
    result = api.run(toy(), tmp_path / "run", store="store")
    of_yaml = api.open_run("runs/toy")
    assert all(row.cached for row in result.report.rows)
    assert [row.digest for row in result.report.rows] == [row.digest for row in of_yaml.report.rows]
    assert result.report.recipe_digest == of_yaml.report.recipe_digest
    assert result.report.final == of_yaml.report.final is not None
    assert result.passed
    assert (tmp_path / "run" / "report.html").is_file()
    assert api.open_run(tmp_path / "run") == result

    network = api.load_network(result.stage("finetune"))
    assert not network.training
    assert tuple(network(torch.zeros(2, 1, 12, 12)).shape) == (2, 2)


def test_a_budget_that_is_missed_is_not_passed(
    finished: tuple[Project, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The limit of a recipe decides over `passed`, and no error is raised for it."""
    monkeypatch.chdir(finished[0].folder)
    recipe = toy(stages=toy().stages[:1], budget={"size": "0.01x"})
    result = api.run(recipe, tmp_path, test=False, store="store")
    assert result.report.status == "finished"
    assert result.report.final is None
    assert not result.passed


def test_plan_says_what_would_run(here: Path) -> None:
    """Nothing is in an empty store, and nothing is written by asking."""
    before = sorted(here.iterdir())
    steps = api.plan(toy(), here / "runs", store=here / "store")
    assert [(step.label, step.cached) for step in steps[:2]] == [("original", False), ("prune", False)]
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (toy(stages=[Quantize()]), "recipe stages.0.kind: quantize needs onnx, but the recipe's model gives torch"),
        (toy(stages=[Prune(ratoi=0.5)]), "recipe stages.0.ratoi: found an unknown key, .*did you mean ratio?"),
        (toy(stages=[Prune(ratio=2)]), "recipe stages.0.ratio: found 2, allowed: a ratio between 0 and 1"),
        (toy(model={"definition": "nowhere.py"}), 'recipe model.definition: found "nowhere.py", which is .*no such fi'),
        ({"format": 1}, "(?s)recipe name: found nothing.*recipe stages: found nothing"),
        ("nowhere.yaml", "nowhere.yaml recipe: found no such file"),
    ],
    ids=["chain", "unknown key", "value", "no file", "a dict", "no recipe"],
)
def test_problems_are_found_before_anything_runs(here: Path, recipe: Recipe | dict[str, object], expected: str) -> None:
    """A recipe error has the words of the command; no folder is made."""
    with pytest.raises(RecipeError, match=expected):
        api.run(recipe, here / "runs", store=here / "store")
    assert not (here / "runs").exists()
    assert not (here / "store").exists()


def test_every_public_name_is_there() -> None:
    """As `from pipeline.api import *` asks for them."""
    assert [name for name in api.__all__ if not hasattr(api, name)] == []


def test_an_unknown_runtime_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    """Before a file is looked at."""
    with pytest.raises(InputError, match=r'^runtime: found "trt", allowed: onnxruntime, openvino, torch$'):
        api.compare(tmp_path / "a.onnx", tmp_path / "b.onnx", runtime="trt")


def test_stages_are_those_of_a_recipe() -> None:
    """Every kind of stage has its function, which says what its keys mean."""
    names = {each.__name__ for each in get_args(get_args(AnyStage)[0])}
    assert names <= set(api.__all__)
    for name in names:
        written = getattr(api, name)
        assert written()["kind"] in written.__doc__
        assert "on_no_gain" in inspect.signature(written).parameters
    assert Measure(runtimes=["openvino"]) == {"kind": "measure", "runtimes": ["openvino"]}
    assert inspect.signature(Export).parameters["to"].default is inspect.Parameter.empty


def test_values_are_those_of_the_yaml(here: Path) -> None:
    """A `Recipe` has the values of the same YAML; a target that is left out is left out."""
    loaded = load_recipe(here / "toy.yaml").raw
    written = toy().values
    assert written == loaded
    assert list(written) == list(loaded)
    assert "target" not in toy(target=None).values


def test_what_is_no_network_and_no_run_is_refused(finished: tuple[Project, object], tmp_path: Path) -> None:
    """A folder without a torch network, a step that there is not, and a damaged network are errors with a remedy."""
    project, _ = finished
    result = api.open_run(project.folder / "runs" / "toy")
    with pytest.raises(InputError, match=r"05-quantize holds no network\.json"):
        api.load_network(result.stage("quantize"))
    with pytest.raises(InputError, match=r'found no step "distil" in .*, allowed: original, prune, finetune, '):
        result.stage("distil")
    with pytest.raises(InputError, match=r"holds no run\.json"):
        api.open_run(tmp_path)
    for path in result.stage("prune").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "network.json").write_text("{}")
    with pytest.raises(ResourceError, match="is damaged"):
        api.load_network(tmp_path)


def test_files_are_those_that_ship(finished: tuple[Project, object]) -> None:
    """By runtime: the last ONNX file, and the IR; the recipe has no stage bundle, so there is none."""
    project, _ = finished
    result = api.open_run(project.folder / "runs" / "toy")
    assert result.files == {
        "onnxruntime": result.stage("quantize") / "model.onnx",
        "openvino": result.stage("export openvino") / "model.xml",
    }
    with pytest.raises(InputError, match="has no bundle; end the recipe with the stage bundle"):
        result.bundle  # noqa: B018 - a property that raises
    torch_alone = result.report.model_copy(update={"rows": result.report.rows[:2]})
    with pytest.raises(InputError, match="exports no file"):
        Result(torch_alone, result.folder).files  # noqa: B018 - a property that raises


def test_a_bundle_of_a_run_is_written_and_verified(finished: tuple[Project, object], tmp_path: Path) -> None:
    """As the commands do it; an option of no use and another digest are refused."""
    result = api.open_run(finished[0].folder / "runs" / "toy")
    made = api.write_bundle(result, tmp_path / "toy.tar.gz", samples=2)
    assert made.places == (tmp_path / "toy.tar.gz",)
    found = api.verify(tmp_path / "toy.tar.gz", digest=made.digest)
    assert (found.verified, len(found.outputs)) == (True, 2)
    assert api.verify(tmp_path / "toy.tar.gz", runtime="openvino").runtime == "openvino"
    with pytest.raises(InputError, match="samples: found 0, allowed: at least 1"):
        api.write_bundle(result.folder, tmp_path / "none", samples=0)
    with pytest.raises(InputError, match=r"sampels: found an unknown key, allowed: .*did you mean samples?"):
        api.write_bundle(result.folder, tmp_path / "none", sampels=3)
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="digest"):
        api.verify(tmp_path / "toy.tar.gz", digest=f"sha256:{'0' * 64}")


@pytest.mark.slow
def test_evaluate_scores_a_file_as_the_run_did(
    finished: tuple[Project, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the folder of a stage, with the recipe's own task and data; what is not allowed is told."""
    project, _ = finished
    monkeypatch.chdir(project.folder)
    result = api.open_run("runs/toy")
    row = next(row for row in result.report.rows if row.kind == "quantize")
    found = api.evaluate(result.stage("quantize"), project.recipe)
    assert found.score == row.validation
    assert (found.runtime, found.split) == ("onnxruntime", "validation")
    for wrong in ({"split": "all"}, {"runtime": "trt"}, {"threads": 0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: found .*allowed"):
            api.evaluate(result.stage("quantize"), project.recipe, **wrong)  # type: ignore[arg-type]


def test_compare_returns_the_verdict(tmp_path: Path) -> None:
    """Of two files; a broken candidate and arguments of no use are errors."""
    first, second = write_one_operator(tmp_path / "a.onnx"), write_small_cnn(tmp_path / "b.onnx")
    found = api.compare(first, str(first), margin=5.0, budget="4s")
    assert (found.verdict, found.margin, found.baseline.label) == ("PASS", 5.0, str(first))
    for arguments, expected in (
        ({"margin": "fast"}, 'margin: found "fast", allowed: a share'),
        ({"budget": "10"}, 'budget: found "10", allowed: a positive time'),
        ({"tolerance": "-1"}, "tolerance: found"),
        ({"metric": "gpu"}, 'metric: found "gpu", allowed: wall, cpu, instructions, or None'),
        ({"threads": 0}, "threads: found 0, allowed: 1 or more"),
        ({"candidate": tmp_path / "nowhere.onnx"}, r"nowhere\.onnx does not exist"),
        ({"candidate": second}, "inputs"),
    ):
        with pytest.raises(InputError, match=expected):
            api.compare(**{"baseline": first, "candidate": first, "budget": "4s", **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (5, DeviceError), (6, OutputsError)])
def test_verify_raises_what_the_exit_code_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    """The error is of the kind that the command's exit code stands for, and names the bundle."""

    def refuse(*_: object) -> None:
        raise Rejected("labels.txt: it was changed", code)

    with pytest.raises(InputError, match=f"{tmp_path / 'nowhere'}: found no such file or folder"):
        api.verify(tmp_path / "nowhere")
    monkeypatch.setattr("pipeline.bundle.check.check_bundle", refuse)
    with pytest.raises(kind, match=rf"{tmp_path}: labels\.txt: it was changed"):
        api.verify(tmp_path)


def test_importing_it_loads_nothing_heavy() -> None:
    """Neither torch nor a runtime is loaded before something runs."""
    code = "import sys, pipeline.api; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pipeline.run.runner" in done.stdout
    assert not HEAVY & set(done.stdout.split())
