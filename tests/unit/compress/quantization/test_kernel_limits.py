"""What runtimes compute wrongly in integers stays in float, and what engines do to tiny weights is put right.

Each graph must be within the noise of 8 bits of its float form, in onnxruntime as it is and optimised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from pipeline.compress.quantization.kernel_limits import REASON
from tests.unit.compress.quantization.exact import IMAGES, graph, node, quantized, wrong
from tests.unit.compress.quantization.graphs import floats

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from pipeline.compress.quantization.names import EngineName

each_engine = pytest.mark.parametrize("name", ["onnxruntime", "nncf"])
POSITIVE = np.abs(IMAGES)


def collapsed(operator: str, size: float) -> ModelProto:
    """Return an operator on values of this size, and a clip that lets those from 0 to 1 through."""
    given = {"Add": "x input", "Mul": "x x2"}.get(operator, "x")
    nodes = [node("Conv", "input w", "x"), node("Conv", "input w2", "x2")]
    attributes = {"kernel_shape": [2, 2]} if operator == "AveragePool" else {}
    nodes = nodes if operator == "Mul" else nodes[:1]
    nodes += [node(operator, given, "s", **attributes), node("Clip", "s low high", "c"), node("Conv", "c v", "y")]
    weight = np.eye(3, dtype=np.float32)[:, :, None, None] * np.float32(size)
    weights = {"w2": np.eye(3, dtype=np.float32)[:, :, None, None]} if operator == "Mul" else {}
    return graph(nodes, w=weight, v=floats(4, 3, 1, 1), low=np.float32(0), high=np.float32(1), **weights)


@pytest.mark.parametrize(
    ("operator", "size"), [("Add", 1e8), ("Mul", 1e7), ("AveragePool", 1e10), ("GlobalAveragePool", 1e5)]
)
def test_values_that_a_clip_makes_tiny_are_computed_in_float(operator: str, size: float) -> None:
    """Where onnxruntime's kernels overflow, or refuse; a size that they can compute is quantized."""
    assert wrong("onnxruntime", collapsed(operator, size), images=POSITIVE) == []
    assert quantized("onnxruntime", collapsed(operator, size), images=POSITIVE).reasons == {"s.node": REASON}
    assert quantized("onnxruntime", collapsed(operator, 3.0), images=POSITIVE).reasons == {}


@each_engine
def test_a_softmax_over_one_number_is_one(name: EngineName) -> None:
    """As in attention of one token; onnxruntime's integer kernel makes 0 of it."""
    nodes = [node("Reshape", "input shape", "x"), node("MatMul", "x w", "s"), node("Softmax", "s", "p", axis=-1)]
    nodes += [node("Mul", "p x", "m"), node("MatMul", "m v", "y")]
    model = graph(nodes, shape=np.array([0, 3, -1]), w=floats(36, 1) / 6, v=floats(36, 4) / 6)
    assert wrong(name, model) == []
    assert "p.node" in quantized(name, model).reasons


def attention(last: list[NodeProto], **weights: np.ndarray) -> ModelProto:
    """Return attention of three tokens, which NNCF takes as the sign to smooth all products, and more layers."""
    nodes = [
        node("Reshape", "input tokens", "x"),
        node("Tanh", "x", "t"),
        node("Transpose", "t", "u", perm=[0, 2, 1]),
        node("MatMul", "t u", "s"),
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p t", "a"),
        node("Reshape", "a map", "m"),
        *last,
    ]
    shapes = {"tokens": np.array([0, 3, -1]), "map": np.array([0, 3, 6, 6])}
    return graph(nodes, **shapes, **weights)


def test_smoothed_weights_are_those_that_data_were_smoothed_for() -> None:
    """Below NNCF's floor of scales they are found anew, from the weights divided by its factors."""
    last = [node("Conv", "m w", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "f")]
    last += [node("Gemm", "f v b", "y")]
    factors = np.float32([1, 1e-2, 30, 1])
    model = attention(
        last,
        w=floats(4, 3, 3, 3) * factors[:, None, None, None] / 3,
        v=floats(4, 5) * np.float32(1e-10),
        b=floats(5) * np.float32(1e-10),
    )
    assert wrong("nncf", model) == []


def test_several_outputs_for_each_input_have_7_bits() -> None:
    """Convolutions that are depthwise but for that run on kernels that saturate; NNCF leaves them 8 bits."""
    nodes = [node("Conv", "input w b", "c", group=3), node("Relu", "c", "r"), node("Conv", "r v", "y")]
    model = graph(nodes, w=floats(6, 1, 3, 3), b=floats(6), v=floats(4, 6, 1, 1))
    assert wrong("nncf", model) == []
    stored = quantized("nncf", model).model.graph.initializer
    integers = [numpy_helper.to_array(tensor) for tensor in stored if tensor.data_type == TensorProto.INT8]
    assert {int(np.abs(each).max()) for each in integers if each.ndim > 1} == {63, 64}


def test_a_value_that_is_read_twice() -> None:
    """By one node: NNCF fails on it, so that node stays in float."""
    nodes = [node("Conv", "input w", "c"), node("Relu", "c", "r"), node("AveragePool", "r", "q", kernel_shape=[2, 2])]
    nodes += [node("Concat", "q q", "d", axis=1), node("Conv", "d v", "y")]
    model = graph(nodes, w=floats(4, 3, 3, 3) / 5, v=floats(5, 8, 1, 1))
    assert wrong("nncf", model) == []
    assert set(quantized("nncf", model).reasons) == {"d.node"}
