"""Tensors that are stored once because they are equal, and those that are one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from pipeline.compress.quantization.separation import separate_tensors, with_biases
from tests.unit.compress.quantization.graphs import floats, model_of, run

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def conv(name: str, given: str, weight: str, bias: str) -> NodeProto:
    """Return a convolution."""
    return helper.make_node("Conv", [given, weight, bias], [name], name, pads=[1, 1, 1, 1])


def network(*, other: str = "a.bias") -> ModelProto:
    """Return a convolution that is called twice, another with an equal bias, and a norm of equal numbers."""
    constants = {"a.weight": floats(4, 4, 3, 3), "b.weight": floats(4, 4, 3, 3, seed=1), "a.bias": floats(4)}
    constants |= {"c.bias": floats(4, seed=3), "numbers": np.array([2, 3])}
    nodes = [
        conv("a", "input", "a.weight", "a.bias"),
        conv("a_2", "a", "a.weight", other),
        conv("b", "a_2", "b.weight", "a.bias"),
        helper.make_node("BatchNormalization", ["b", "a.bias", "a.bias", "a.bias", "c.bias"], ["n"], "n"),
        helper.make_node("ReduceMean", ["n", "numbers"], ["m"], "m"),
        helper.make_node("ReduceMean", ["m", "numbers"], ["y"], "y"),
    ]
    return model_of(nodes, {"input": (1, 4, 5, 5)}, ["y"], constants)


def inputs(model: ModelProto) -> dict[str, list[str]]:
    """Return what each node reads behind its data."""
    return {node.name: list(node.input[1:]) for node in model.graph.node}


def test_equal_tensors_are_stored_for_each_reader() -> None:
    """Those of one layer that is called twice stay one; whole numbers are no weights."""
    model = network()
    before = model.SerializeToString(deterministic=True)
    found = separate_tensors(model, {"a.weight", "a.bias"})
    assert model.SerializeToString(deterministic=True) == before
    assert inputs(found) == {
        "a": ["a.weight", "a.bias"],
        "a_2": ["a.weight", "a.bias"],
        "b": ["b.weight", "b.bias"],
        "n": ["a.bias", "a.bias", "a.bias", "c.bias"],
        "m": ["numbers"],
        "y": ["numbers"],
    }
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    np.testing.assert_array_equal(stored["b.bias"], stored["a.bias"])


def test_without_tied_weights_every_node_has_its_own() -> None:
    """Also statistics beside weights; the network stays the same."""
    model = network()
    found = separate_tensors(model, ())
    given = [name for node, names in inputs(found).items() if node not in {"m", "y"} for name in names]
    assert len(set(given)) == len(given)
    assert inputs(found)["a_2"] == ["a_2.weight", "a_2.bias"]
    assert inputs(found)["n"] == ["n.weight", "n.bias", "n.constant", "c.bias"]
    image = np.abs(floats(1, 4, 5, 5))
    np.testing.assert_array_equal(run(found, image)[0], run(model, image)[0])


def test_one_weight_with_two_biases_becomes_two() -> None:
    """For a layer is trained with its bias."""
    found = separate_tensors(network(other="c.bias"), {"a.weight", "a.bias", "c.bias"})
    assert inputs(found)["a_2"] == ["a_2.weight", "c.bias"]


def test_names_that_are_taken_get_a_number() -> None:
    """By a value or another tensor."""
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(floats(4), "b.bias"))
    assert inputs(separate_tensors(model, {"a.weight", "a.bias"}))["b"] == ["b.weight", "b.bias_2"]


def test_layers_get_a_bias_of_zeros() -> None:
    """Those that are named and have none; the network stays the same."""
    nodes = [
        helper.make_node("Conv", ["input", "a.weight"], ["a"], "a"),
        helper.make_node("Conv", ["a", "b.weight"], ["b"], "b"),
        conv("c", "b", "c.weight", "c.bias"),
    ]
    weights = {f"{name}.weight": floats(4, 4, 3, 3) for name in "abc"}
    model = model_of(nodes, {"input": (1, 4, 9, 9)}, ["c"], {**weights, "c.bias": floats(4)})
    found = with_biases(model, {"a", "c", "other"})
    assert inputs(found) == {"a": ["a.weight", "a.bias"], "b": ["b.weight"], "c": ["c.weight", "c.bias"]}
    np.testing.assert_array_equal(run(found, floats(1, 4, 9, 9))[0], run(model, floats(1, 4, 9, 9))[0])
