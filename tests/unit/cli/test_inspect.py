"""The command inspect on exported files: text, page and JSON, and one message for every mistake."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import InputError
from pipeline.export.onnx import export_onnx
from pipeline.export.openvino import export_openvino
from pipeline.results.file_inspection import PROFILE_NOTE, FileInspection, schema
from tests.feeds import image_input

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.project import Project


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a float ONNX file and its IR in folders of their own."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    export_onnx(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), folder / "onnx", image_input((1, 1, 12, 12)))
    export_openvino(folder / "onnx" / "model.onnx", folder / "ir")
    return folder / "onnx" / "model.onnx", folder / "ir" / "model.xml"


def inspect(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_json_is_the_documented_structure(files: tuple[Path, Path]) -> None:
    """It reads back as the type whose schema the program prints; a folder stands for its file."""
    for given in (files[0], files[0].parent, files[1], files[1].parent):
        done = inspect(given, "--json", "--runs", 2, "--images", 2)
        assert done.exit_code == 0, done.output
        found = FileInspection.model_validate_json(done.stdout)
        assert found.layers[0].macs == 100 * 4 * 9
        assert found.samples.startswith("2 random inputs")
    assert set(json.loads(done.stdout)) == set(schema()["required"]) == set(schema()["properties"])
    printed = CliRunner().invoke(app, ["schema", "inspection"])
    assert json.loads(printed.stdout) == schema()


def test_text_and_page(files: tuple[Path, Path], project: Project, tmp_path: Path) -> None:
    """On the images of a recipe, with the page beside the table."""
    page = tmp_path / "page.html"
    options = ("--recipe", project.recipe, "--images", 4, "--runs", 2, "--html", page, "--against", files[0])
    done = inspect(files[0], *options)
    assert done.exit_code == 0, done.output
    assert "Run on 4 training images of toy." in done.output
    assert "exact" in done.output
    assert " ".join(PROFILE_NOTE.split()) in " ".join(done.output.split())
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_float_file_may_be_the_folder_of_its_stage(files: tuple[Path, Path], tmp_path: Path) -> None:
    """As the file itself may be."""
    shutil.copy(files[0], tmp_path / "model.onnx")
    done = inspect(tmp_path, "--against", tmp_path, "--runs", "0", "--images", "2")
    assert done.exit_code == 0, done.output
    assert "exact" in done.output


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("nowhere.onnx", (), "nowhere.onnx: no such file; expected an ONNX model"),
        ("nowhere.xml", (), "nowhere.xml: no such file"),
        ("broken.onnx", (), "broken.onnx is not a valid ONNX model"),
        ("broken.xml", (), "broken.xml is not a readable OpenVINO model"),
        ("weights.pt", (), "not a kind of model. Expected a recipe .* or an exported file"),
        ("model.py", ("--against", "float.onnx"), "found --against with model.py, which is not an exported file"),
        ("model.py", ("--recipe", "toy.yaml"), "found --recipe with model.py"),
        ("model.py", ("--runtime", "openvino"), "found --runtime with model.py"),
        ("FILE", ("--arguments", "a=1"), "found --arguments with the exported file .*a model definition"),
        ("FILE", ("--set", "a=1"), "found --set with the exported file .* alone, allowed there: --recipe"),
        ("FILE", ("--against", "broken.onnx"), "broken.onnx is not a valid ONNX model"),
        ("FILE", ("--recipe", "nowhere.yaml"), "nowhere.yaml"),
        ("FILE", ("--input", "3,12,12"), r"found \[3, 12, 12\]"),
        ("IR", ("--runtime", "onnxruntime"), "onnxruntime cannot profile it"),
    ],
)
def test_mistakes(
    project: Project,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    """Each is a bad input with one message."""
    monkeypatch.chdir(project.folder)
    for name in ("broken.onnx", "broken.xml", "weights.pt"):
        (project.folder / name).write_text("nothing")
    places = {"FILE": str(files[0]), "IR": str(files[1])}
    with pytest.raises(InputError, match=message) as caught:
        CliRunner().invoke(app, ["inspect", places.get(given, given), *options], catch_exceptions=False)
    assert caught.value.exit_code == 2


def test_data_of_another_shape_is_named(project: Project, tmp_path: Path) -> None:
    """The recipe is of another network than the file."""
    export_onnx(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), tmp_path, image_input((1, 3, 12, 12)))
    done = inspect(tmp_path / "model.onnx", "--recipe", project.recipe)
    assert isinstance(done.exception, InputError)
    assert "input of shape [1, 12, 12] do not fit. Name its recipe" in str(done.exception)


def test_the_stages_of_a_run(finished: tuple[Project, object]) -> None:
    """Folders of stages that hold a file are inspected; of the run itself they are named."""
    project, _ = finished
    stages = project.folder / "runs" / "toy" / "stages"
    (float_file,) = (folder for folder in stages.iterdir() if folder.name.endswith("simplify"))
    (whole,) = (folder for folder in stages.iterdir() if folder.name.endswith("quantize"))
    options = ("--against", float_file / "model.onnx", "--recipe", project.recipe, "--runs", 2, "--images", 4, "--json")
    found = FileInspection.model_validate_json(inspect(whole, *options).stdout)
    assert found.against == str(float_file / "model.onnx")
    assert np.isfinite([layer.sqnr_db or 0.0 for layer in found.layers]).all()
    assert found.integer_macs > 0.9 * found.macs
    with pytest.raises(InputError, match=r"its exported files are in .*quantize"):
        CliRunner().invoke(app, ["inspect", str(project.folder / "runs" / "toy")], catch_exceptions=False)
