"""Torch's table of operators: built once, and no export sees what another one added."""

from __future__ import annotations

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from pipeline.export import operator_table
from pipeline.export.operator_table import kept_operators

OPSET = 20


def test_the_table_is_that_of_torch_and_parsed_once() -> None:
    """All targets have as many translations, which are the same objects for every export."""
    own = ONNXRegistry.from_torchlib(opset_version=OPSET)
    with kept_operators():
        first, second = (ONNXRegistry().from_torchlib(opset_version=OPSET) for _ in range(2))
    assert first.opset_version == OPSET
    assert {name: len(found) for name, found in first.functions.items()} == {
        name: len(found) for name, found in own.functions.items()
    }
    assert all(
        a is b for name in first.functions for a, b in zip(first.functions[name], second.functions[name], strict=True)
    )
    assert ONNXRegistry.from_torchlib(opset_version=OPSET).functions is not own.functions


def test_an_export_adds_to_its_own_table() -> None:
    """What is registered for one export is not there for the next."""
    with kept_operators():
        first, second = (ONNXRegistry().from_torchlib(opset_version=OPSET) for _ in range(2))
    name = next(iter(first.functions))
    before = len(second.functions[name])
    first.functions[name].append(first.functions[name][0])
    first.functions["made up"] = []
    assert len(second.functions[name]) == before
    assert "made up" not in second.functions


def test_operators_that_come_later_are_in_the_next_table() -> None:
    """A library may register those that torch has translations for, as quantization's."""
    with kept_operators():
        ONNXRegistry().from_torchlib(opset_version=OPSET)
        before = operator_table._built.cache_info().misses
        ONNXRegistry().from_torchlib(opset_version=OPSET)
        assert operator_table._built.cache_info().misses == before
        library = torch.library.Library("secateur_test", "DEF")
        library.define("later(Tensor x) -> Tensor")
        ONNXRegistry().from_torchlib(opset_version=OPSET)
    assert operator_table._built.cache_info().misses == before + 1
