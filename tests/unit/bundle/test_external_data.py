"""Weights of an ONNX file that lie in another file are found wherever ONNX allows a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.bundle.on_device.self_test import Failed, check_inside
from tests.unit.bundle.small_content import network

if TYPE_CHECKING:
    from collections.abc import Callable


def external() -> TensorProto:
    """Return a tensor whose content lies elsewhere."""
    tensor = helper.make_tensor("secret", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../outside.bin")
    return tensor


def initializer(model: onnx.ModelProto) -> None:
    """Put it among the weights."""
    model.graph.initializer.append(external())


def constant(model: onnx.ModelProto) -> None:
    """Put it into a constant."""
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=external()))


def sparse(model: onnx.ModelProto) -> None:
    """Put it into sparse weights."""
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=external()))


def branch(model: onnx.ModelProto) -> None:
    """Put it into a branch of a condition."""
    inner = helper.make_graph([], "inner", [], [], [external()])
    model.graph.node.append(helper.make_node("If", ["input"], ["unused"], then_branch=inner, else_branch=inner))


def function(model: onnx.ModelProto) -> None:
    """Put it into a function of the file's own."""
    node = helper.make_node("Constant", [], ["unused"], value=external())
    model.functions.append(helper.make_function("own", "f", [], ["unused"], [node], [helper.make_opsetid("", 17)]))


def location_alone(model: onnx.ModelProto) -> None:
    """Say where it lies, and not that it lies elsewhere."""
    tensor = external()
    tensor.ClearField("data_location")
    model.graph.initializer.append(tensor)


@pytest.mark.parametrize("put", [initializer, constant, sparse, branch, function, location_alone])
def test_external_data(put: Callable[[onnx.ModelProto], None]) -> None:
    """It is found, and the file is named."""
    model = network(1, 1)
    put(model)
    with pytest.raises(Failed, match=r"^model/model\.onnx: its weights are in other files"):
        check_inside(model.SerializeToString(), "model/model.onnx")


def test_a_network_of_its_own_passes() -> None:
    """So does one with texts and attributes of every kind."""
    model = network(3, 8)
    model.metadata_props.add(key="location", value="external_data")
    model.graph.node.append(helper.make_node("Own", [], ["unused"], floats=[1.0], text="external", ints=[-1], f=1.5))
    check_inside(model.SerializeToString(), "model/model.onnx")


@pytest.mark.parametrize("content", [b"x", b"\x3a\xff", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x3b"])
def test_what_is_no_message(content: bytes) -> None:
    """It is refused as no ONNX file."""
    with pytest.raises(Failed, match="not an ONNX file"):
        check_inside(content, "model/model.onnx")


def test_nested_without_end() -> None:
    """Branches within branches end somewhere."""
    graph = b""
    for _ in range(500):
        attribute = b"\x32" + varint(len(graph)) + graph
        node = b"\x2a" + varint(len(attribute)) + attribute
        graph = b"\x0a" + varint(len(node)) + node
    with pytest.raises(Failed, match="nested too deeply"):
        check_inside(b"\x3a" + varint(len(graph)) + graph, "model/model.onnx")


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])
