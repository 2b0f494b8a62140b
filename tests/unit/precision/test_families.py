"""Families of nodes: by operator and by kind of layer, none twice, none that is everything."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from pipeline.precision.in_float import families
from tests.unit.precision.search_fixtures import network

EVERY = ("stem", "dw", "point", "add", "fc")


def test_layers_are_sorted_by_what_they_are() -> None:
    """A pointwise convolution of 16 channels is a small one, and the first is known as that."""
    assert families(network(), EVERY) == {
        "first Conv": ("stem",),
        "depthwise Conv": ("dw",),
        "small Conv": ("point",),
        "every Add": ("add",),
        "every Gemm": ("fc",),
    }


def test_only_what_is_on_integers_counts() -> None:
    """The first convolution stays the first when others are in float."""
    assert families(network(), ("point", "fc")) == {"small Conv": ("point",), "every Gemm": ("fc",)}
    assert families(network(), ("stem", "point")) == {"first Conv": ("stem",), "small Conv": ("point",)}


def test_a_family_of_everything_leaves_nothing() -> None:
    """It would be the float file with conversions."""
    assert families(network(), ("fc",)) == {}
    assert families(network(), ()) == {}


def test_operators_beside_products_are_one_family_where_there_are_several() -> None:
    """Each alone as well."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", group=2),
        helper.make_node("Add", ["a", "a"], ["b"], "add"),
        helper.make_node("Mul", ["b", "a"], ["c"], "mul"),
        helper.make_node("MatMul", ["c", "c"], ["y"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.TensorProto(name="w", dims=[4, 2, 1, 1], data_type=TensorProto.FLOAT, float_data=[0.0] * 8)],
    )
    assert families(helper.make_model(graph), ("conv", "add", "mul", "product")) == {
        "first Conv": ("conv",),
        "every Add": ("add",),
        "all but products": ("add", "mul"),
        "every Mul": ("mul",),
        "every MatMul": ("product",),
    }
