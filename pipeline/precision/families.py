"""Families of nodes that are left in float together when integers cost them time: by operator, and by kind of layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto, NodeProto

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_EVERYTHING_ELSE = "all but products"
#: Sums of fewer products than this per output are a small convolution.
_SMALL = 64


def families(model: ModelProto, on_integers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return nodes that work on integers by family, in the order of the graph; a node can be in several.

    `model` is the float graph. Families: depthwise, grouped, small and first convolutions, each other operator, and
    all that are no products. Of families with the same nodes the first is returned, and none that leaves no node on
    integers.
    """
    names = frozenset(on_integers)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found: dict[str, list[str]] = {}
    first = True
    for node in model.graph.node:
        kinds = _kinds(node, shapes, first=first)
        first = first and node.op_type not in PRODUCTS
        for kind in kinds if node.name in names else ():
            found.setdefault(kind, []).append(node.name)
    distinct: dict[tuple[str, ...], str] = {}
    for kind, nodes in found.items():
        if len(nodes) < len(names):
            distinct.setdefault(tuple(nodes), kind)
    return {kind: nodes for nodes, kind in distinct.items()}


def _kinds(node: NodeProto, shapes: dict[str, tuple[int, ...]], *, first: bool) -> list[str]:
    if node.op_type not in PRODUCTS:
        return [f"every {node.op_type}", _EVERYTHING_ELSE]
    shape = shapes.get(node.input[1], ())
    kinds = [f"first {node.op_type}"] if first else []
    if node.op_type == "Conv" and len(shape) > 2:  # noqa: PLR2004 - a kernel
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        sums = shape[1]
        for size in shape[2:]:
            sums *= size
        if groups > 1:
            kinds.append("depthwise Conv" if shape[1] == 1 else "grouped Conv")
        elif sums < _SMALL:
            kinds.append("small Conv")
    elif node.op_type != "Conv":
        kinds.append(f"every {node.op_type}")
    return kinds
