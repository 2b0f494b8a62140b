"""What a file predicts, for people: `secateur inspect FILE --recipe RECIPE --predictions DIR`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import InputError
from pipeline.data import load_task
from pipeline.export.onnx import export_onnx
from pipeline.network.definition import build_network
from pipeline.recipe import load_recipe
from pipeline.recipe.starter import write_starter

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def exported(kind: str, folder: Path) -> None:
    """Write the starter of a kind, and its untrained network as model.onnx."""
    write_starter(kind, folder)
    recipe = load_recipe(folder / "recipe.yaml", []).recipe
    task = load_task(recipe.task, recipe.data)
    model = build_network(folder / "model.py", dict(recipe.model.arguments)).eval()
    export_onnx(model, folder, task.inputs(1), task.output_names)


def told(folder: Path, *options: str) -> Result:
    """Run the command on it with four samples."""
    recipe = ("--recipe", str(folder / "recipe.yaml")) if "--alone" not in options else ()
    given = ["inspect", str(folder / "model.onnx"), *recipe, "--samples", "4", "--runs", "0"]
    return CliRunner().invoke(app, [*given, "--predictions", str(folder / "found")])


@pytest.mark.parametrize(("kind", "drawn"), [("segmentation", True), ("token", False), ("file", False)])
def test_predictions_are_told_and_drawn_where_the_task_draws(kind: str, drawn: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A line or a block for each sample, and an image of its size where there is one."""
    exported(kind, tmp_path)
    done = told(tmp_path)
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "found" / "predictions.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith("  ")] == [f"validation {n}" for n in range(4)]
    images = sorted((tmp_path / "found").glob("*.png"))
    assert len(images) == (4 if drawn else 0)
    assert all(np.asarray(Image.open(each)).ndim == 3 for each in images)


def test_the_task_is_given_its_classes(tmp_path: Path) -> None:
    """As `show` of a bundle is."""
    exported("file", tmp_path)
    task = tmp_path / "task.py"
    text = task.read_text().replace("metrics = (Distance(),)", 'metrics, classes = (Distance(),), ("a", "b")')
    task.write_text(text.replace('return "spot at', 'return " ".join(classes) + " spot at'))
    assert told(tmp_path).exit_code == 0
    assert "validation 0: a b spot at " in (tmp_path / "found" / "predictions.txt").read_text()


def test_what_the_task_cannot_tell_is_one_message(tmp_path: Path) -> None:
    """With the line of the user's code; without a recipe there is no task."""
    exported("file", tmp_path)
    task = tmp_path / "task.py"
    assert "def show(" in task.read_text()
    task.write_text(task.read_text().replace("def show(self, ", "def show(self, too_many, others, "))
    done = told(tmp_path)
    assert isinstance(done.exception, InputError)
    assert "the predictions of model.onnx cannot be told: show() failed: TypeError" in str(done.exception)
    alone = told(tmp_path, "--alone")
    assert isinstance(alone.exception, InputError)
    assert "found --predictions with the exported file" in str(alone.exception)
