"""Torch's table of operators and their ONNX translations, built once and not for every export of a process."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING
from unittest import mock

from torch._C import _dispatch_get_all_op_names
from torch.onnx._internal.exporter._registration import ONNXRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

_build = ONNXRegistry.from_torchlib


@cache
def _built(opset: int, operators: int) -> ONNXRegistry:
    """Return the table for as many operators as there are: a library that is loaded later brings its own."""
    del operators
    return _build(opset_version=opset)


def _copied(opset_version: int) -> ONNXRegistry:
    """Return a table that one export may add to."""
    known = _built(opset_version, len(_dispatch_get_all_op_names()))
    table = ONNXRegistry()
    table.__dict__.update(known.__dict__)
    table.functions = {target: list(found) for target, found in known.functions.items()}
    return table


@contextmanager
def kept_operators() -> Iterator[None]:
    """Let exports take copies of one table: about 500 functions are parsed for it, half of a small network's export."""
    with mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(_copied)):
        yield
