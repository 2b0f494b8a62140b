"""What is subtle in the adapters: weights in either order, attention, a bias correction that harms, odd images."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compress.quantization.engines.registry import ENGINES, open_engine
from pipeline.core.errors import InputError, StageError
from pipeline.export.onnx import export_onnx
from pipeline.measure.machine import machine_fingerprint
from pipeline.precision.targets import target_facts
from tests.defaults import asked
from tests.feeds import fed, image_input
from tests.unit.compress.pruning.networks import Net, conv

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from pipeline.compress.quantization.engines.engine import Engine
    from pipeline.compress.quantization.names import EngineName

MIN_MAX = asked("u8s8", calibration="min-max")
IMAGES = np.random.default_rng(0).standard_normal((4, 3, 4, 4)).astype(np.float32)
#: Where outputs of quantized and float graph are this near, in dB, no scale is on a wrong axis or missing.
NEAR = 30.0
#: OpenVINO has no setting against saturated sums of products in 8 bits, as onnxruntime has.
SATURATES = target_facts(machine_fingerprint(), "openvino").saturates


@pytest.fixture(params=[name for name in ENGINES if name != "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Return each engine that is an adapter of another project's."""
    name: EngineName = request.param
    if importlib.util.find_spec(ENGINES[name]().module) is None:
        pytest.skip(f"pip install 'secateur[{name}]'")
    return open_engine(name)


def model_of(nodes: list[NodeProto], tensors: dict[str, NDArray[np.generic]], shape: tuple[int, ...]) -> ModelProto:
    """Return a model from `image` to `logits`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs(model: ModelProto) -> NDArray[np.float32]:
    """Return what onnxruntime computes for the images, without optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in IMAGES])


def nearness(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio in dB."""
    return float(10 * np.log10(np.square(expected).sum() / max(np.square(expected - found).sum(), 1e-20)))


@pytest.mark.parametrize("operator", ["Gemm", "Gemm transposed", "MatMul"])
def test_weights_of_products_have_a_scale_for_each_output(engine: Engine, operator: str) -> None:
    """On the axis where the outputs are; one output has weights a hundred times those of the others."""
    weight = np.random.default_rng(1).standard_normal((48, 5)).astype(np.float32)
    weight[:, 0] *= 100
    attributes = {"transB": 1} if operator == "Gemm transposed" else {}
    tensors = {"w": weight.T.copy() if attributes else weight, "b": np.ones(5, np.float32)}
    product = operator.split(maxsplit=1)[0]
    nodes = [helper.make_node("Flatten", ["input"], ["flat"], "flat")]
    if product == "Gemm":
        nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], "fc", **attributes))
    else:
        nodes.append(helper.make_node("MatMul", ["flat", "w"], ["product"], "fc"))
        nodes.append(helper.make_node("Add", ["product", "b"], ["logits"], "add"))
    model = model_of(nodes, tensors, (1, 5))
    result = engine.quantize(model, fed(IMAGES), MIN_MAX)
    assert result.nodes[product] == 1
    expected, found = outputs(model), outputs(result.model)
    for column in range(5):
        assert nearness(expected[:, column], found[:, column]) > NEAR


def test_parts_of_a_split_are_told_apart(engine: Engine) -> None:
    """A node with several outputs gives each reader its own."""
    rng = np.random.default_rng(1)
    tensors = {name: rng.standard_normal((4, 3, 1, 1)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Split", ["input", "parts"], ["upper", "lower"], "split", axis=2),
        helper.make_node("Conv", ["upper", "v"], ["a"], "a"),
        helper.make_node("Conv", ["lower", "w"], ["b"], "b"),
        helper.make_node("Add", ["a", "b"], ["sum"], "sum"),
        helper.make_node("Relu", ["sum"], ["logits"], "relu"),
    ]
    model = model_of(nodes, {**tensors, "parts": np.array([2, 2])}, (1, 4, 2, 4))
    result = engine.quantize(model, fed(IMAGES), MIN_MAX)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.nodes["Conv"] == 2
    assert nearness(outputs(model), outputs(result.model)) > NEAR


def attention(layers: Net, x: Tensor) -> Tensor:
    """Return logits of one block of a vision transformer with a head."""
    tokens = layers.patches(x).flatten(2).transpose(1, 2)
    query, key, value = layers.project(layers.norm(tokens)).chunk(3, -1)
    tokens = tokens + layers.out((query @ key.transpose(1, 2) / 4).softmax(-1) @ value)
    tokens = tokens + layers.second(functional.gelu(layers.first(layers.norm2(tokens))))
    return layers.fc(layers.last(tokens)[:, 0])


def pooled(layers: Net, x: Tensor) -> Tensor:
    """The same, but the classifier reads the mean over all tokens."""
    tokens = layers.patches(x).flatten(2).transpose(1, 2)
    query, key, value = layers.project(layers.norm(tokens)).chunk(3, -1)
    return layers.fc((tokens + layers.out((query @ key.transpose(1, 2) / 4).softmax(-1) @ value)).mean(1))


@pytest.mark.parametrize("function", [attention, pooled])
def test_attention_is_quantized_for_both_runtimes(engine: Engine, function: object, tmp_path: Path) -> None:
    """Linear layers run on integers, smoothed or not, and OpenVINO computes the same as onnxruntime."""
    torch.manual_seed(0)
    layers = {name: nn.Linear(16, width) for name, width in (("project", 48), ("out", 16), ("first", 32), ("fc", 5))}
    norms = {name: nn.LayerNorm(16) for name in ("norm", "norm2", "last")}
    network = Net(function, patches=conv(3, 16, 1), **layers, **norms, second=nn.Linear(32, 16))  # type: ignore[arg-type]
    export_onnx(network.eval(), tmp_path, image_input((1, 3, 4, 4)))
    model = onnx.load(tmp_path / "model.onnx")
    result = engine.quantize(model, fed(IMAGES), MIN_MAX)
    expected = outputs(model)
    assert result.nodes["MatMul"] + result.nodes.get("Gemm", 0) >= 3
    assert nearness(expected, outputs(result.model)) > NEAR
    if SATURATES:  # weights in seven bits; both sides of a product of activations have eight
        stored = {tensor.name for tensor in model.graph.initializer}
        products = [node.name for node in model.graph.node if node.op_type == "MatMul" and not stored & {*node.input}]
        result = engine.quantize(model, fed(IMAGES), asked("u8s8-reduced", calibration="min-max", keep=tuple(products)))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(result.model.SerializeToString()), "CPU")
    assert nearness(expected, np.concatenate([compiled(image[None])[0] for image in IMAGES])) > NEAR


@pytest.mark.parametrize("helps", [True, False])
def test_a_bias_correction_is_kept_where_it_helps(monkeypatch: pytest.MonkeyPatch, *, helps: bool) -> None:
    """NNCF's moves the biases of a graph that is wrong by a constant, towards the float outputs or away from them."""
    from pipeline.compress.quantization.engines import nncf  # noqa: PLC0415 - only this test needs it

    weight, bias = np.ones((2, 3, 1, 1), np.float32), np.array([1.0, -1.0], np.float32)
    conv1x1 = helper.make_node("Conv", ["input", "w", "b"], ["logits"], "conv")
    model = model_of([conv1x1], {"w": weight, "b": bias}, (1, 2, 4, 4))
    wrong = helper.make_node("Add", ["input", "half"], ["moved"], "moved")
    conv1x1 = helper.make_node("Conv", ["moved", "w", "b"], ["logits"], "conv")
    moved = (bias - 1.4 if helps else bias + 1).astype(np.float32)
    tensors = {"w": weight, "b": moved, "half": np.array(0.5, np.float32)}
    corrected = model_of([wrong, conv1x1], tensors, (1, 2, 4, 4))
    monkeypatch.setattr(nncf, "_quantized", lambda *_: corrected)
    result = nncf.Nncf().quantize(model, fed(IMAGES), MIN_MAX).model
    kept = next(numpy_helper.to_array(tensor) for tensor in result.graph.initializer if tensor.name == "b")
    np.testing.assert_array_equal(kept, moved if helps else bias)


def test_images_that_cannot_be_used_are_refused(engine: Engine) -> None:
    """Of another shape, not finite, or such that a value inside the graph is not."""
    nodes = [
        helper.make_node("Log", ["input"], ["log"], "log"),
        helper.make_node("Conv", ["log", "w"], ["logits"], "conv"),
    ]
    model = model_of(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)}, (1, 2, 4, 4))
    with pytest.raises(InputError, match="shape"):
        engine.quantize(model, fed(IMAGES[:, :, :2]), MIN_MAX)
    with pytest.raises(InputError, match="not finite"):
        engine.quantize(model, fed(IMAGES * np.float32(np.nan)), MIN_MAX)
    with pytest.raises(StageError, match="not finite, first in log"):
        engine.quantize(model, fed(IMAGES), MIN_MAX)


def test_an_operator_that_an_engine_does_not_know_is_named(engine: Engine) -> None:
    """Neural Compressor's way leads through torch; NNCF takes any operator and leaves it in float."""
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["conv"], "conv"),
        helper.make_node("Det", ["conv"], ["logits"], "determinant"),
    ]
    model = model_of(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)}, (1, 2))
    if engine.name == "neural-compressor":
        with pytest.raises(InputError, match="Det of determinant"):
            engine.quantize(model, fed(IMAGES), MIN_MAX)
    else:
        assert engine.quantize(model, fed(IMAGES), MIN_MAX).float_nodes == ("determinant",)
