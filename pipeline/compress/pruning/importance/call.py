"""One call of an operator in a captured graph: its arguments by name, and its result for another input."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from torch._ops import OpOverload
from torch.fx.node import Node, map_arg

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph.capture import CapturedGraph


def argument(node: Node, name: str) -> Node | None:
    """Return the node that the operator's schema calls `name`; None where it is absent or no node."""
    if not isinstance(node.target, OpOverload):
        return None
    names = [declared.name for declared in node.target._schema.arguments]  # noqa: SLF001 - the documented way to them
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}.get(name)
    return given if isinstance(given, Node) else None


def stored(captured: CapturedGraph, name: str) -> Tensor:
    """Return the parameter or buffer that a get_attr node reads."""
    tensor: Tensor = attrgetter(name)(captured.module)
    return tensor


def result(captured: CapturedGraph, node: Node, source: Node, value: Tensor) -> Tensor:
    """Return what the operator gives with `value` in place of `source`; its other tensors are stored ones."""

    def given(other: Node) -> Tensor:
        return value if other is source else stored(captured, str(other.target))

    if not isinstance(node.target, OpOverload):
        raise TypeError(f"{node.name} is not a call of an operator")
    output: Tensor = node.target(*map_arg(node.args, given), **map_arg(node.kwargs, given))
    return output
