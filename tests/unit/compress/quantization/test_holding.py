"""Nodes that are kept in float are computed in float by onnxruntime, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

from pipeline.compress.quantization.engines.onnxruntime import OnnxRuntime
from pipeline.compress.quantization.holding import hold_in_float
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.onnx_graph.file import read_onnx
from pipeline.precision.variant import Variant, build
from tests.defaults import asked
from tests.feeds import fed, image_input

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto
    from torch import Tensor

SAMPLES = np.random.default_rng(0).standard_normal((8, 3, 8, 8), dtype=np.float32)


class Residual(nn.Module):
    """Four convolutions with an addition, so that each kind of node has quantized neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, 3, 8, 8] to features."""
        features = self.first(images).relu()
        return self.last((self.third(self.second(features).relu()) + features).relu())


@pytest.fixture
def model(tmp_path: Path) -> ModelProto:
    """Return the float graph."""
    export_onnx(Residual().eval(), tmp_path, image_input((1, 3, 8, 8)))
    return read_onnx(tmp_path / FILE_NAME)


def ran(model: ModelProto, folder: Path) -> Counter[str]:
    """Return the operators that onnxruntime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def outputs(model: ModelProto) -> np.ndarray:
    """Run a graph unoptimised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: each[None]})[0] for each in SAMPLES])


@pytest.mark.parametrize("kept", ["second", "third", "Add"])
def test_kept_nodes_are_computed_in_float(model: ModelProto, tmp_path: Path, kept: str) -> None:
    """Between quantized neighbours too, where the pairs alone would have it computed in integers."""
    whole = ran(build(model, fed(SAMPLES), Variant("onnxruntime", asked("u8s8"))).model, tmp_path)
    held = ran(build(model, fed(SAMPLES), Variant("onnxruntime", asked("u8s8", keep=(kept,)))).model, tmp_path)
    integer = "QLinearAdd" if kept == "Add" else "QLinearConv"
    assert held[integer] == whole[integer] - 1


def test_holding_changes_no_number(model: ModelProto) -> None:
    """The file computes what it did without."""
    plain = OnnxRuntime().quantize(model, fed(SAMPLES), asked("u8s8", keep=("second",))).model
    held = hold_in_float(plain, {"second"})
    assert np.array_equal(outputs(plain), outputs(held))
    assert len(held.graph.node) == len(plain.graph.node) + 1


def test_nothing_is_put_where_it_is_not_needed(model: ModelProto) -> None:
    """A node whose input is float already, and a graph without kept nodes, stay as they are."""
    plain = OnnxRuntime().quantize(model, fed(SAMPLES), asked("u8s8", keep=("first",))).model
    assert hold_in_float(plain, {"first"}) == plain
    assert hold_in_float(plain, ()) == plain
