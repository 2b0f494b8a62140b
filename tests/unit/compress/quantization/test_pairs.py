"""Edits of QDQ graphs: the same numbers in another form, and pairs where runtimes need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.quantization import pairs, qdq
from pipeline.compress.quantization.biases import store_biases
from pipeline.compress.quantization.canonical import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from pipeline.onnx_graph.links import Grid

IMAGES = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
TENSORS = {
    "w_quantized": np.random.default_rng(1).integers(-127, 128, (2, 2, 1, 1)).astype(np.int8),
    "w_scale": np.array([0.01, 0.02], np.float32),
    "w_zero_point": np.zeros(2, np.int8),
    "b": np.array([0.1, -0.2], np.float32),
    "zero": np.array(0, np.float32),
    "six": np.array(6, np.float32),
}
WEIGHT = helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero_point"], ["w"], "w", axis=0)


def on(scale: float, zero_point: int) -> Grid:
    """Return a grid of unsigned numbers."""
    return np.array(scale, np.float32), np.array(zero_point, np.uint8)


def node(operator: str, given: str, made: str, **attributes: object) -> NodeProto:
    """Return a node named after what it makes."""
    return helper.make_node(operator, given.split(), [made], made, **attributes)


def graph(*nodes: NodeProto, **grids: Grid) -> ModelProto:
    """Return a model that reads x and returns y, with pairs behind these values."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", IMAGES.shape), ("y", [None] * 4))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in TENSORS.items()]
    made = helper.make_graph(nodes, "graph", ports[:1], ports[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    qdq.insert_pairs(model.graph, grids)
    qdq.remove_unread(model.graph)
    return model


def outputs(model: ModelProto) -> NDArray[np.float32]:
    """Check the model and return what it computes, without optimisations."""
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"x": IMAGES})[0]
    return found


def stored(model: ModelProto, name: str) -> NDArray[np.generic]:
    """Return a stored tensor."""
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def names(model: ModelProto) -> list[str]:
    """Return the nodes in the order of the graph."""
    return [each.name for each in model.graph.node]


@pytest.mark.parametrize(("kind", "point"), [(np.uint8, 100), (np.int8, -28)])
def test_types_change_and_values_do_not(kind: type[np.uint8 | np.int8], point: int) -> None:
    """A zero point of 100 in u8 is one of -28 in s8; weights keep their type."""
    model = graph(WEIGHT, node("Conv", "x w b", "c"), node("Neg", "c", "y"), x=on(0.05, 100), c=on(0.02, 0))
    before = outputs(model)
    pairs.retype(model.graph, kind)
    np.testing.assert_array_equal(outputs(model), before)
    assert stored(model, "x_zero_point") == np.array(point, kind)
    assert stored(model, "w_zero_point").dtype == np.int8


def test_centred_ranges_reach_as_far_as_before() -> None:
    """[-5, 7.75] becomes [-7.75, 7.75]."""
    model = graph(node("Neg", "x", "y"), x=on(0.05, 100))
    pairs.centre(model.graph)
    assert int(stored(model, "x_zero_point")) == 128
    assert float(stored(model, "x_scale")) == pytest.approx(155 * 0.05 / 127)


@pytest.mark.parametrize(
    ("operator", "bounds", "grid", "dropped"),
    [
        ("Relu", "", on(0.02, 0), True),
        ("Relu", "", on(0.02, 1), False),
        ("Clip", "zero six", on(0.02, 0), True),
        ("Clip", "zero six", on(0.0235, 0), True),
        ("Clip", "zero six", on(0.05, 0), False),
        ("Clip", "zero", on(0.05, 0), True),
    ],
)
def test_what_clips_no_further_than_the_pair_behind_it_is_left_out(
    operator: str, bounds: str, grid: Grid, *, dropped: bool
) -> None:
    """The numbers stay the same: a grid from 0 to 5.1 makes both needless, one to 12.75 does not make ReLU6."""
    model = graph(node("Neg", "x", "n"), node(operator, f"n {bounds}", "a"), node("Neg", "a", "y"), a=grid)
    before = outputs(model)
    pairs.drop_clipped_twice(model.graph)
    np.testing.assert_array_equal(outputs(model), before)
    assert ("a" not in names(model)) is dropped


def test_an_activation_whose_float_result_is_read_stays() -> None:
    """What reads it would see negative numbers."""
    model = graph(node("Relu", "x", "a"), node("Neg", "a", "n"), node("Add", "n a", "y"))
    qdq.insert_pairs(model.graph, {"a": on(0.02, 0)}, lambda reader, _: reader.name == "n")
    pairs.drop_clipped_twice(model.graph)
    assert "a" in names(model)


def test_operators_that_move_values_hand_their_grid_on() -> None:
    """A convolution behind max pooling finds integers, and the numbers stay the same."""
    pool = node("MaxPool", "x", "p", kernel_shape=[2, 2])
    model = graph(
        WEIGHT, pool, node("Transpose", "p", "t", perm=[0, 1, 3, 2]), node("Conv", "t w", "y"), x=on(0.03, 90)
    )
    before = outputs(model)
    pairs.follow_movers(model.graph)
    np.testing.assert_array_equal(outputs(model), before)
    assert {"p_QuantizeLinear", "t_QuantizeLinear"} <= set(names(model))


@pytest.mark.parametrize(("second", "follows"), [(on(0.03, 90), True), (on(0.04, 90), False)])
def test_concatenation_hands_on_what_all_its_parts_have(second: Grid, *, follows: bool) -> None:
    """Parts on two grids would have to be rounded again."""
    parts = node("Neg", "x", "n"), node("Concat", "x n", "c", axis=2)
    model = graph(WEIGHT, *parts, node("Conv", "c w", "y"), x=on(0.03, 90), n=second)
    pairs.follow_movers(model.graph)
    assert ("c_QuantizeLinear" in names(model)) is follows


def test_biases_are_on_the_scale_of_the_sums() -> None:
    """Scale of the data times scale of each channel's weights; the outputs move by less than one step of that."""
    model = graph(WEIGHT, node("Conv", "x w b", "y"), x=on(0.03, 90))
    before = outputs(model)
    store_biases(model.graph)
    np.testing.assert_array_equal(stored(model, "b_quantized"), [round(0.1 / 3e-4), round(-0.2 / 6e-4)])
    assert stored(model, "b_quantized").dtype == np.int32
    assert np.abs(outputs(model) - before).max() <= 6e-4 / 2 + 1e-6


ALONE = (node("Conv", "x w b", "y"),)
SHARED = (node("Conv", "x w b", "c"), node("Conv", "x w", "d"), node("Add", "c d", "y"))


@pytest.mark.parametrize(("readers", "more"), [(ALONE, 1), (SHARED, 2)])
def test_weights_on_larger_scales_for_a_huge_bias(readers: tuple[NodeProto, ...], more: int) -> None:
    """The weight's node then gives those; where another layer reads it too there is one more, and none for nothing."""
    model = graph(WEIGHT, *readers, x=on(1e-9, 90))
    before, count = outputs(model), len(model.graph.node)
    store_biases(model.graph)
    assert len(model.graph.node) == count + more
    read = {value for each in model.graph.node for value in each.input}
    assert all(value in read for each in model.graph.node for value in each.output if value != "y")
    np.testing.assert_allclose(outputs(model), before, atol=1e-6)


def test_a_convolution_lacks_a_pair_behind_its_activation_function() -> None:
    """With symmetric ranges in front of it, since then the pair cannot clip; a pair that is there is enough."""
    nodes = WEIGHT, node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Sigmoid", "r", "y")
    assert pairs.finish_convolutions(graph(*nodes, x=on(0.03, 90)).graph, symmetric=False) == ("r",)
    assert pairs.finish_convolutions(graph(*nodes, x=on(0.03, 90)).graph, symmetric=True) == ("c",)
    assert pairs.finish_convolutions(graph(*nodes, x=on(0.03, 90), c=on(0.03, 9)).graph, symmetric=False) == ()


def test_a_pair_for_some_readers_is_shared_with_all_but_products() -> None:
    """A product that reads it would be quantized by the runtime, and it is to stay in float."""
    nodes = WEIGHT, node("Conv", "x w", "c"), node("Neg", "c", "n"), node("Sigmoid", "c", "s"), node("Add", "n s", "y")
    model = graph(*nodes, x=on(0.03, 90))
    qdq.insert_pairs(model.graph, {"c": on(0.05, 100)}, lambda reader, _: reader.name == "n")
    assert pairs.finish_convolutions(model.graph, symmetric=False) == ()
    reader = next(each for each in model.graph.node if each.name == "s")
    assert list(reader.input) == ["c_DequantizeLinear_Output"]
    model = graph(WEIGHT, node("Conv", "x w", "c"), node("Neg", "c", "n"), node("MatMul", "c n", "y"), x=on(0.03, 90))
    qdq.insert_pairs(model.graph, {"c": on(0.05, 100)}, lambda reader, _: reader.name == "n")
    assert pairs.finish_convolutions(model.graph, symmetric=False) == ("c",)
    qdq.insert_pairs(model.graph, {"c": on(0.05, 100)})
    assert pairs.finish_convolutions(model.graph, symmetric=False) == ()
    outputs(model)


def test_an_addition_to_a_convolution_lacks_a_pair_too() -> None:
    """Others do not: what is added in float was left so."""
    nodes = WEIGHT, node("Conv", "x w", "c"), node("Add", "c x", "a"), node("Sigmoid", "a", "y")
    assert pairs.finish_convolutions(graph(*nodes, x=on(0.03, 90), c=on(0.1, 9)).graph, symmetric=False) == ("a",)
    nodes = node("Neg", "x", "c"), node("Add", "c x", "a"), node("Sigmoid", "a", "y")
    assert pairs.finish_convolutions(graph(*nodes, x=on(0.03, 90), c=on(0.1, 9)).graph, symmetric=False) == ()


@pytest.mark.parametrize(
    ("bounds", "kind", "symmetric", "scale", "point"),
    [
        ((-1.0, 2.0), np.uint8, False, 3 / 255, 85),
        ((-1.0, 2.0), np.int8, False, 3 / 255, -43),
        ((0.5, 2.0), np.uint8, False, 2 / 255, 0),
        ((-1.0, 2.0), np.uint8, True, 2 / 127, 128),
        ((-1.0, 2.0), np.int8, True, 2 / 127, 0),
        ((0.0, 0.0), np.uint8, False, 1.0, 0),
    ],
)
def test_grids_of_ranges(
    bounds: tuple[float, float], kind: type[np.uint8 | np.int8], scale: float, point: int, *, symmetric: bool
) -> None:
    """Worked out by hand; zero is always a number of the grid."""
    found = qdq.grid(bounds, kind, symmetric=symmetric)
    assert float(found[0]) == pytest.approx(scale)
    assert found[1] == np.array(point, kind)


def test_nodes_come_behind_what_they_read() -> None:
    """In whatever order they are given; what needs no change keeps its place."""
    model = graph(node("Neg", "x", "a"), node("Neg", "x", "b"), node("Add", "a b", "y"))
    qdq.replace_nodes(model.graph, [model.graph.node[2], model.graph.node[1], model.graph.node[0]])
    assert names(model) == ["a", "b", "y"]


def test_a_plain_copy_has_names_and_no_constants_or_identities() -> None:
    """So that engines find each weight among the stored tensors; what the graph computes stays."""
    value = numpy_helper.from_array(np.array(2.0, np.float32))
    nodes = helper.make_node("Constant", [], ["two"], value=value), helper.make_node("Identity", ["x"], ["same"])
    model = graph(*nodes, helper.make_node("Mul", ["same", "two"], ["y"]))
    found = plain(model)
    assert [(each.op_type, each.name) for each in found.graph.node] == [("Mul", "y")]
    np.testing.assert_array_equal(outputs(found), 2 * IMAGES)
    assert len(model.graph.node) == 3
