"""A graph that rounds alike: additions in float, means of whole numbers, and the outputs that it had."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

from pipeline.compress.quantization.alike import round_alike, rounding_nodes
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.onnx_graph.file import read_onnx
from pipeline.precision.planner import require_exact_on_arm
from pipeline.precision.variant import Variant, build
from tests.defaults import asked
from tests.feeds import fed, image_input

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto
    from torch import Tensor

SAMPLES = np.random.default_rng(0).standard_normal((8, 3, 8, 8), dtype=np.float32)


class Residual(nn.Module):
    """A residual block, a mean, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, 3, 8, 8] to logits."""
        features = self.first(images).relu()
        return self.head((self.second(features) + features).relu().mean((2, 3)))


@pytest.fixture
def model(tmp_path: Path) -> ModelProto:
    """Return the float graph."""
    export_onnx(Residual().eval(), tmp_path, image_input((1, 3, 8, 8)))
    return read_onnx(tmp_path / FILE_NAME)


def quantized(model: ModelProto, *, alike: bool) -> ModelProto:
    """Return the int8 graph that a recipe gives."""
    return build(model, fed(SAMPLES), Variant("onnxruntime", asked("u8s8-reduced"), alike=alike)).model


def outputs(model: ModelProto) -> np.ndarray:
    """Run a graph as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: each[None]})[0] for each in SAMPLES])


def test_no_addition_is_left_in_integers(model: ModelProto, tmp_path: Path) -> None:
    """What onnxruntime makes of the graph has none, and as many integer layers as before."""
    kinds = []
    for alike in (False, True):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 4
        content = quantized(model, alike=alike).SerializeToString()
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(tmp_path / "optimised.onnx").graph
        kinds.append(Counter(node.op_type for node in graph.node if node.op_type.startswith(("QLinear", "QGemm"))))
    assert kinds[0] - kinds[1] == Counter({"QLinearAdd": 1})
    assert kinds[1]["QLinearConv"] == 2


def test_the_outputs_are_those_of_the_graph(model: ModelProto) -> None:
    """As the graph is written; the steps of the last quantizer are the largest difference that rounding makes."""
    plain, alike = (quantized(model, alike=each) for each in (False, True))
    before, after = outputs(plain), outputs(alike)
    assert np.mean(before == after) > 0.9
    assert np.abs(before - after).max() <= 0.02 * np.abs(before).max()


def test_what_rounds_alike_is_known(model: ModelProto) -> None:
    """Nothing may round otherwise then; without, the addition and the mean may."""
    alike = quantized(model, alike=True)
    assert require_exact_on_arm(alike) == []
    assert len(require_exact_on_arm(quantized(model, alike=False))) == 2
    assert {"LeakyRelu", "Add", "ReduceMean", "Mul"} == {
        node.op_type for node in alike.graph.node if node.name in rounding_nodes(alike)
    }


def test_done_twice_is_done_once(model: ModelProto) -> None:
    """A graph that rounds alike stays as it is."""
    alike = quantized(model, alike=True)
    assert round_alike(alike) == alike
