"""Static int8 quantization: types, what stays in float, ranges, memory and reproducible bytes."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.quantization.placement import matching_nodes
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.core.errors import InputError, StageError
from tests.defaults import quantize_static
from tests.feeds import fed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from pipeline.compress.quantization.names import Calibration, Scheme

SAMPLES = np.random.default_rng(0).standard_normal((6, 3, 8, 8), dtype=np.float32)


def network(*, batch_norm: bool = False, batch: int = 1) -> ModelProto:
    """Return conv, relu, conv, relu, global mean, linear; the first two channels differ in scale by a hundred."""
    generator = np.random.default_rng(1)

    def tensor(name: str, *shape: int, scale: float = 0.3) -> onnx.TensorProto:
        return numpy_helper.from_array((scale * generator.standard_normal(shape)).astype(np.float32), name)

    wide = numpy_helper.to_array(tensor("first.weight", 8, 3, 3, 3)).copy()
    wide[0] *= 0.01
    middle = [helper.make_node("BatchNormalization", ["first", "s", "s", "s", "v"], ["norm"], name="norm")]
    nodes = [
        helper.make_node("Conv", ["input", "first.weight", "first.bias"], ["first"], name="first", pads=[1] * 4),
        *(middle if batch_norm else []),
        helper.make_node("Relu", ["norm" if batch_norm else "first"], ["relu"], name="relu"),
        helper.make_node("Conv", ["relu", "second.weight"], ["second"], name="block.second", pads=[1] * 4),
        helper.make_node("Relu", ["second"], ["relu2"], name="block.relu"),
        helper.make_node("ReduceMean", ["relu2", "axes"], ["mean"], name="mean", keepdims=0),
        helper.make_node("Gemm", ["mean", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]
    weights = [
        numpy_helper.from_array(wide, "first.weight"),
        tensor("first.bias", 8),
        tensor("second.weight", 8, 8, 3, 3),
        tensor("fc.weight", 4, 8),
        tensor("fc.bias", 4),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
        tensor("s", 8),
        numpy_helper.from_array(np.ones(8, np.float32), "v"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def logits(model: ModelProto) -> NDArray[np.float32]:
    """Return the outputs for all samples, with sums that do not saturate where the processor has no VNNI."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in SAMPLES])


def weights(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the stored tensors by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def node(model: ModelProto, name: str) -> NodeProto:
    """Return the node of this name."""
    return next(each for each in model.graph.node if each.name == name)


@pytest.mark.parametrize(
    ("scheme", "activation", "weight", "bound"),
    [
        ("u8s8", np.uint8, np.int8, 127),
        ("u8s8-reduced", np.uint8, np.int8, 64),
        ("s8s8", np.int8, np.int8, 127),
        ("u8u8", np.uint8, np.uint8, 255),
    ],
)
def test_a_scheme_sets_the_types_and_keeps_the_outputs(
    scheme: Scheme, activation: type, weight: type, bound: int
) -> None:
    """Weights use the range that the scheme allows; outputs move by a few per cent of their scale."""
    model = network()
    quantized = quantize_static(model, SAMPLES, scheme=scheme).model
    stored = weights(quantized)
    assert stored["second.weight_quantized"].dtype == weight
    assert stored["relu_zero_point"].dtype == activation
    assert np.abs(stored["second.weight_quantized"].astype(int)).max() in (bound, bound - 1)
    reference = logits(model)
    assert np.abs(logits(quantized) - reference).max() < 0.06 * np.abs(reference).max()


def test_each_output_channel_has_a_scale() -> None:
    """A channel of small weights keeps its precision, which a common scale takes from it."""
    model = network()
    scales = {
        per_channel: weights(quantize_static(model, SAMPLES, scheme="u8s8", per_channel=per_channel).model)
        for per_channel in (True, False)
    }
    assert scales[True]["first.weight_scale"].shape == (8,)
    assert scales[False]["first.weight_scale"].shape == ()
    assert np.abs(scales[True]["first.weight_quantized"][0]).max() == 127
    assert np.abs(scales[False]["first.weight_quantized"][0]).max() < 5


def test_symmetric_activations_have_their_zero_point_in_the_middle() -> None:
    """And asymmetric ones of a ReLU at the lower end."""
    points = [
        weights(quantize_static(network(), SAMPLES, scheme="u8s8", symmetric=symmetric).model)["relu_zero_point"]
        for symmetric in (True, False)
    ]
    assert (int(points[0]), int(points[1])) in ((127, 0), (128, 0))


def test_what_is_quantized_is_counted_and_what_is_not_is_named() -> None:
    """ReLU disappears into the convolution in front of it; the mean has no integer kernel."""
    quantized = quantize_static(network(), SAMPLES, scheme="u8s8")
    assert quantized.nodes == {"Conv": 2, "Gemm": 1}
    assert quantized.float_nodes == ("mean",)


def test_outputs_of_matrix_products_leave_in_float() -> None:
    """No pair behind the last layer: close logits do not become ties."""
    quantized = quantize_static(network(), SAMPLES, scheme="u8s8").model
    assert list(node(quantized, "fc").output) == ["logits"]
    assert len(np.unique(logits(quantized))) == len(SAMPLES) * 4


def test_every_tensor_in_the_file_is_used() -> None:
    """No scale or zero point is left over, which runtimes would warn about."""
    graph = quantize_static(network(), SAMPLES, scheme="u8s8").model.graph
    read = {value for node in graph.node for value in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read


def test_kept_nodes_stay_in_float() -> None:
    """By pattern; their weights are stored as they were."""
    quantized = quantize_static(network(), SAMPLES, scheme="u8s8", keep=["block.*"])
    assert quantized.nodes == {"Conv": 1, "Gemm": 1}
    assert {"block.second", "block.relu"} <= set(quantized.float_nodes)
    assert weights(quantized.model)["second.weight"].dtype == np.float32


def test_a_pattern_without_a_match_lists_the_nodes() -> None:
    """A typing error is not silently a quantized layer."""
    with pytest.raises(InputError, match=r'"blok\.\*" matches no node; .* first, relu, block.second'):
        matching_nodes(network(), ["first", "blok.*"])


def test_batch_norm_behind_a_convolution_is_refused() -> None:
    """It would be computed in float, and the convolution's weights would be the wrong ones to quantize."""
    with pytest.raises(StageError, match="batch norm norm follows convolution first"):
        quantize_static(network(batch_norm=True), SAMPLES, scheme="u8s8")


def test_a_quantized_graph_is_refused() -> None:
    """Twice does not help."""
    quantized = quantize_static(network(), SAMPLES, scheme="u8s8").model
    with pytest.raises(InputError, match="quantized already"):
        quantize_static(quantized, SAMPLES, scheme="u8s8")


def test_activations_that_are_not_finite_fail() -> None:
    """A range of infinity would quantize everything to zero; images themselves are the caller's to correct."""
    with pytest.raises(StageError, match="not finite, first in first"):
        activation_ranges(network(), fed(np.full_like(SAMPLES, 3e38)), calibration="min-max", percentile=100)
    with pytest.raises(InputError, match="images hold values that are not finite"):
        activation_ranges(network(), fed(SAMPLES * np.float32("inf")), calibration="min-max", percentile=100)


@pytest.mark.parametrize("calibration", ["min-max", "percentile", "entropy"])
def test_ranges_lie_within_min_max(calibration: Calibration) -> None:
    """Of the values that the network really brings forth, input and output included."""
    limits = activation_ranges(network(), fed(SAMPLES), calibration="min-max", percentile=100)
    ranges = activation_ranges(network(), fed(SAMPLES), calibration=calibration, percentile=99)
    assert set(ranges) == set(limits) >= {"input", "first", "relu", "logits"}
    assert limits["input"] == (SAMPLES.min(), SAMPLES.max())
    assert limits["relu"][0] == 0
    assert all(limits[name][0] <= low <= high <= limits[name][1] for name, (low, high) in ranges.items())


def test_a_batch_in_the_file_is_filled_up() -> None:
    """Six samples in calls of four give the ranges of six single ones."""
    single, four = (
        activation_ranges(network(batch=batch), fed(SAMPLES), calibration="min-max", percentile=100) for batch in (1, 4)
    )
    assert single["logits"] == pytest.approx(four["logits"], abs=1e-6)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """The intermediate tensors of one batch are held at a time."""

    def peak(images: int) -> int:
        samples = np.zeros((images, 3, 8, 8), dtype=np.float32)
        tracemalloc.start()
        activation_ranges(network(), fed(samples), calibration="percentile", percentile=99.99)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)
    assert peak(200) < 1.2 * peak(20)


def test_the_given_graph_is_left_alone_and_the_result_is_the_same_again() -> None:
    """Also in a process with another hash seed."""
    model = network()
    before = model.SerializeToString(deterministic=True)
    first, second = (quantize_static(model, SAMPLES, scheme="u8s8").model for _ in range(2))
    assert model.SerializeToString(deterministic=True) == before
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    program = (
        f"import runpy, sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
        f"here = runpy.run_path({__file__!r})\n"
        "result = here['quantize_static'](here['network'](), here['SAMPLES'], scheme='u8s8').model\n"
        "sys.stdout.buffer.write(result.SerializeToString(deterministic=True))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, env={"PYTHONHASHSEED": "11"}
    )
    assert other.stdout == first.SerializeToString(deterministic=True)
