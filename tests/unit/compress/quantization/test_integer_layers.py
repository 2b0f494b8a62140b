"""Which layers run on integers, and the numbers that their kernels multiply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.compress.quantization.integer_layers import float_products, integer_layers
from tests.unit.compress.quantization.products import CASES, Case, integers, model_of, sums_of, weights

if TYPE_CHECKING:
    from onnx import ModelProto


def output_shape(model: ModelProto) -> list[int]:
    """Return the shape of the output."""
    return [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", CASES)
def test_rows_times_weights_are_the_layer(name: str) -> None:
    """For every kind of window, group and padding the lowered product is the layer's own sum."""
    case = CASES[name]
    model, values = model_of(case), integers(case)
    (layer,) = integer_layers(model)
    shape = output_shape(model)
    count = layer.positions(shape)
    rows = layer.rows(values, shape, np.arange(count))
    columns = layer.kernel_weights()
    sums = np.concatenate([(one - case.zero_point) @ other for one, other in zip(rows, columns, strict=True)], axis=1)
    np.testing.assert_array_equal(sums, sums_of(case, values, weights(case)).exact)
    np.testing.assert_array_equal(layer.rows(values, shape, np.array([count - 1])), rows[:, -1:])
    assert layer.is_depthwise == name.startswith("depthwise")


def test_a_layer_is_described() -> None:
    """Where its integers come from, their scale and type, and a scale for each channel."""
    (layer,) = integer_layers(model_of(CASES["signed"]))
    assert (layer.name, layer.operator, layer.activations, layer.output) == ("layer", "Conv", "xq", "product")
    assert (layer.x_scale, layer.x_zero_point, layer.x_signed) == (1 / 64, -20, True)
    assert layer.w_scale.shape == (16,)


def test_weights_that_the_runtime_folds() -> None:
    """Float weights behind a QuantizeLinear of constants are the integers that it makes."""
    case = CASES["im2col"]
    (stored,), (folded,) = integer_layers(model_of(case)), integer_layers(model_of(case, folded=False))
    np.testing.assert_array_equal(folded.weight, stored.weight)
    assert folded.weight.dtype == np.int8


def test_weights_that_are_clipped_behind_their_quantization() -> None:
    """So torch's own quantizers leave them."""
    model = model_of(CASES["im2col"], folded=False)
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.output[0] == "w")
    nodes[place].output[0] = "unclipped"
    nodes.insert(place + 1, helper.make_node("Clip", ["unclipped", "lowest"], ["w"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.int8(-100), "lowest"))
    (layer,) = integer_layers(model)
    np.testing.assert_array_equal(layer.weight, np.maximum(weights(CASES["im2col"]), -100))


@pytest.mark.parametrize(("mode", "begin"), [("SAME_UPPER", 0), ("SAME_LOWER", 1), ("VALID", None)])
def test_padding_by_name(mode: str, begin: int | None) -> None:
    """An odd pixel goes behind, or in front."""
    case = Case(4, 8, kernel=2, pad=0, spatial=(6, 6))
    model = model_of(case)
    node = next(each for each in model.graph.node if each.op_type == "Conv")
    kept = [each for each in node.attribute if each.name != "pads"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("auto_pad", mode)])
    values = integers(case)
    (layer,) = integer_layers(model)
    shape = [1, 8, 5, 5] if begin is None else [1, 8, 6, 6]
    side = (0, 0) if begin is None else (begin, 1 - begin)
    rows = layer.rows(values, shape, np.arange(layer.positions(shape)))
    sums = rows[0] @ layer.kernel_weights()[0]
    expected = sums_of(case, np.pad(values, [(0, 0), (0, 0), side, side]), weights(case))
    np.testing.assert_array_equal(sums, expected.exact)


def test_gemm_with_transposed_weights() -> None:
    """Stored [M, K], multiplied as [K, M]."""
    case = CASES["rows"]
    model = model_of(case)
    node = next(each for each in model.graph.node if each.op_type == "MatMul")
    node.op_type = "Gemm"
    node.attribute.append(helper.make_attribute("transB", 1))
    weight = next(each for each in model.graph.initializer if each.name == "w")
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights(case).T), "w"))
    (layer,) = integer_layers(model)
    np.testing.assert_array_equal(layer.kernel_weights()[0], weights(case))
    assert layer.w_scale.shape == (32,)


def changed(model: ModelProto, name: str) -> ModelProto:
    """Return the graph with one thing that keeps its layer from running on integers."""
    nodes = {node.output[0]: node for node in model.graph.node}
    if name == "float behind":
        nodes["yq"].op_type, nodes["yq"].input[:] = "Identity", ["product"]
        nodes["y"].op_type, nodes["y"].input[:] = "Identity", ["yq"]
    elif name == "float weights":
        nodes["product"].input[1] = "f"
        model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float32), "f"))
    elif name == "16-bit activations":
        zero = next(each for each in model.graph.initializer if each.name == "xz")
        zero.CopyFrom(numpy_helper.from_array(np.uint16(0), "xz"))
    elif name == "a scale for each channel of the data":
        scale = next(each for each in model.graph.initializer if each.name == "xs")
        scale.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "xs"))
    return model


@pytest.mark.parametrize(
    "name", ["float behind", "float weights", "16-bit activations", "a scale for each channel of the data"]
)
def test_a_layer_that_stays_in_float(name: str) -> None:
    """It is named instead."""
    model = changed(model_of(CASES["im2col"]), name)
    assert integer_layers(model) == ()
    assert float_products(model) == ("layer",)


def test_a_relu_may_stand_between() -> None:
    """The runtimes fuse it into the quantization behind."""
    model = model_of(CASES["im2col"])
    nodes = list(model.graph.node)
    index = next(i for i, node in enumerate(nodes) if node.op_type == "Conv") + 1
    nodes[index].input[0] = "relu"
    nodes.insert(index, helper.make_node("Relu", ["product"], ["relu"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    assert len(integer_layers(model)) == 1
    assert float_products(model) == ()


def test_a_product_of_activations_far_behind_the_input() -> None:
    """Each addition doubles the paths back to the input: attention in a deep network has more than can be walked."""
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale"], ["q0"])]
    for place in range(600):
        nodes.append(helper.make_node("DequantizeLinear", [f"q{place}", "scale"], [f"d{place}"]))
        nodes.append(helper.make_node("Add", [f"d{place}", f"d{place}"], [f"a{place}"]))
        nodes.append(helper.make_node("QuantizeLinear", [f"a{place}", "scale"], [f"q{place + 1}"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q600", "scale"], ["last"]))
    nodes.append(helper.make_node("MatMul", ["last", "last"], ["y"], "attention"))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 4])],
        [numpy_helper.from_array(np.float32(0.1), "scale")],
    )
    model = helper.make_model(graph)
    assert integer_layers(model) == ()
    assert float_products(model) == ("attention",)
