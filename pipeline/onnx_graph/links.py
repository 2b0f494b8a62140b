"""Which node produces and which nodes consume each value of an ONNX graph, as it is at the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the node that produces each value; inputs and stored tensors have none."""
    return {value: node for node in graph.node for value in node.output}


def consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that consume each value, in the order of the graph, one that takes it twice twice."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            found.setdefault(value, []).append(node)
    return found
