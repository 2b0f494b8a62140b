"""The command evaluate: what the user's code prints is no part of its result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper
from typer.testing import CliRunner

from pipeline.cli import app

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import numpy as np
class Error:
    name, unit, higher_is_better = "error", "mm", False
    statistic = staticmethod(lambda prediction, target: print("a statistic") or 0.5)
class Given:
    metrics = (Error(),)
    eval_samples = staticmethod(lambda split: print("samples") or [(f"{split} {place}", 0, 0) for place in range(2)])
    preprocess = staticmethod(lambda raw: {"x": np.zeros(3, np.float32)})
    decode = staticmethod(lambda outputs: outputs["y"])
def task():
    print("the task")
    return Given()
"""


def test_what_the_file_prints_is_no_part_of_the_json(tmp_path: Path) -> None:
    """It goes to standard error."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    (tmp_path / "task.py").write_text(CODE)
    (tmp_path / "model.py").write_text("def build(): ...\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "format: 1\nname: printing\nmodel: {definition: model.py}\ntask: {kind: file, path: task.py}\n"
        "target: {runtime: onnxruntime, threads: 1}\nstages: [{kind: export, to: onnx}]\n"
    )
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "model.onnx"), "--recipe", str(recipe), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["score"]["error"] == 0.5
    for printed in ("the task", "samples", "a statistic"):
        assert printed in done.stderr
