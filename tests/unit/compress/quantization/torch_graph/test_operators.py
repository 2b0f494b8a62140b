"""Every operator that has a counterpart in torch computes what onnxruntime does, in each form that files have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from pipeline.compress.quantization.torch_graph.graph_module import GraphModule
from pipeline.compress.quantization.torch_graph.operators import NUMBERS, OPERATORS
from pipeline.core.errors import InputError
from tests.unit.compress.quantization.graphs import floats, model_of, run
from tests.unit.compress.quantization.torch_graph.operator_cases import CASES, IMAGE, SHRUNK, Case, ints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ALL = [
    pytest.param(operator, case, id=f"{operator} {name}")
    for operator, cases in CASES.items()
    for name, case in cases.items()
]


def outputs(module: torch.nn.Module, *arrays: Array) -> list[Array]:
    """Return what the module computes, as arrays."""
    with torch.no_grad():
        found = module(*map(torch.from_numpy, arrays))
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize(("operator", "case"), ALL)
def test_an_operator_computes_what_onnxruntime_does(operator: str, case: Case) -> None:
    """In shape and value; positive values where an operator takes no others."""
    model = case.model(operator)
    x = floats(*case.shape) * (3 if case.to == TensorProto.INT64 else 1)
    x = np.square(x) if operator in {"Log", "Sqrt"} else x
    expected, found = run(model, x), outputs(GraphModule(model), x)
    assert [each.shape for each in found] == [each.shape for each in expected]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-6)


def test_every_operator_has_a_case() -> None:
    """One that is added needs a row, and what takes numbers is an operator."""
    missing = OPERATORS.keys() - CASES.keys() - {"Swish"}  # onnxruntime has none yet
    assert not missing
    assert NUMBERS.keys() <= OPERATORS.keys()
    assert len(ALL) > 250


def test_swish() -> None:
    """The sigmoid of alpha x, times x."""
    x = torch.from_numpy(floats(2, 3))
    torch.testing.assert_close(OPERATORS["Swish"]({"alpha": 0.5}, x), x * torch.sigmoid(x / 2))


def test_group_normalization_of_opset_18_has_a_scale_for_each_group() -> None:
    """Which onnxruntime no longer runs."""
    x, scale, bias = torch.from_numpy(floats(2, 4, 3)), torch.tensor([2.0, 3.0]), torch.tensor([0.5, -1.0])
    plain = torch.nn.functional.group_norm(x, 2)
    expected = plain * torch.tensor([2.0, 2, 3, 3])[:, None] + torch.tensor([0.5, 0.5, -1, -1])[:, None]
    torch.testing.assert_close(OPERATORS["GroupNormalization"]({"num_groups": 2}, x, scale, bias), expected)


@pytest.mark.parametrize("numbers", [{"value_float": 0.25}, {"value_floats": [0.25, 0.5]}, {"value_ints": [2]}])
def test_constants_as_nodes(numbers: dict[str, Any]) -> None:
    """Numbers are of 32 bits."""
    kind = TensorProto.INT64 if "value_ints" in numbers else TensorProto.FLOAT
    nodes = [
        helper.make_node("Constant", [], ["c"], "constant", **numbers),
        helper.make_node("Cast", ["input"], ["x"], "cast", to=kind),
        helper.make_node("Add", ["x", "c"], ["y"], "add"),
    ]
    model = model_of(nodes, {"input": (2, 2)}, ["y"])
    x = floats(2, 2)
    (expected,), (found,) = run(model, x), outputs(GraphModule(model), x)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_shapes_may_be_computed() -> None:
    """As they are in files of any batch size."""
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"], "shape", end=1),
        helper.make_node("Concat", ["shape", "rest"], ["whole"], "concat", axis=0),
        helper.make_node("Reshape", ["input", "whole"], ["y"], "reshape"),
    ]
    model = model_of(nodes, {"input": ("N", 2, 3)}, ["y"], {"rest": ints(6)})
    x = floats(5, 2, 3)
    np.testing.assert_array_equal(outputs(GraphModule(model), x)[0], run(model, x)[0])


@pytest.mark.parametrize(
    ("operator", "case", "says"),
    [
        ("Hardmax", Case((3, 4)), "operator Hardmax of node has no counterpart in torch here; known are Abs, Add"),
        ("Cast", Case((3, 4), (), {"to": TensorProto.BFLOAT16}), "Cast to element type 16 .* known are float32, uint8"),
        ("Resize", Case(IMAGE, (None, SHRUNK), {"mode": "linear", "antialias": 1}), "Resize with cropping, antialias"),
    ],
)
def test_what_has_no_counterpart_is_refused(operator: str, case: Case, says: str) -> None:
    """With what there is."""
    with pytest.raises(InputError, match=says):
        GraphModule(case.model(operator))(torch.from_numpy(floats(*case.shape)))
