"""QDQ graphs: the scales of ranges, and pairs put behind values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from pipeline.onnx_graph.file import drop_unread, put_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx import GraphProto, NodeProto

    from pipeline.compress.quantization.calibration import Range
    from pipeline.onnx_graph.links import Grid, Wiring


#: What onnxruntime looks through on the way to QuantizeLinear.
TRANSPARENT = ("Relu", "Clip")
#: Smallest scale that means anything: below it float32 has no normal number for a step.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
#: Distance between the zero points of signed and unsigned numbers.
SIGN = 128


def grid(bounds: Range, kind: type[np.uint8 | np.int8], *, symmetric: bool) -> Grid:
    """Return the scale and zero point that represent a range, widened to hold zero, in 8 bits of this type."""
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    lowest = int(np.iinfo(kind).min)
    if symmetric:
        return np.array(max(-low, high) / (SIGN - 1) or 1.0, np.float32), np.array(lowest + SIGN, kind)
    scale = np.array((high - low) / (2 * SIGN - 1) or 1.0, np.float32)
    return scale, np.array(lowest + round(-low / float(scale)), kind)


def clips_no_further(node: NodeProto, wiring: Wiring, behind: Grid, *, apart: float = 0.0) -> bool:
    """Return whether rounding to a grid gives the same numbers with and without the Relu or Clip in front of it.

    With `apart` bounds that are no further apart count as equal.
    """
    bounds, (scale, zero_point) = clip_bounds(node, wiring), behind
    if bounds is None or scale.size > 1:
        return False
    limits, half = np.iinfo(zero_point.dtype), max(float(scale) / 2, apart)
    lowest, highest = ((limit - int(zero_point)) * float(scale) for limit in (limits.min, limits.max))
    return bounds[0] < lowest + half and bounds[1] > highest - half


def clip_bounds(node: NodeProto, wiring: Wiring) -> Range | None:
    """Return the bounds of a Relu or Clip, -inf and inf where it has none; None where one is computed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    given = [*node.input[1:], "", ""][:2]
    if any(name and name not in wiring.stored for name in given):
        return None
    low, high = (
        float(wiring.numbers(name)) if name else default for name, default in zip(given, (-np.inf, np.inf), strict=True)
    )
    return low, high


def insert_pairs(
    graph: GraphProto, grids: Mapping[str, Grid], reads: Callable[[NodeProto, str], bool] | None = None
) -> None:
    """Put a pair behind each of these values, for all nodes that read it, or those of which `reads` says so.

    Outputs of the graph stay as they are.
    """
    taken = {tensor.name for tensor in graph.initializer}
    names = {value: _free(value, taken) for value in grids}
    inputs = {value.name for value in graph.input}
    ordered = [new for value in grids if value in inputs for new in _pair(value, names[value])]
    for node in graph.node:
        ordered.append(node)
        wanted = [value in grids and (reads is None or reads(node, value)) for value in node.input]
        node.input[:] = [
            f"{names[value]}_DequantizeLinear_Output" if on else value
            for value, on in zip(node.input, wanted, strict=True)
        ]
        ordered.extend(new for value in node.output if value in grids for new in _pair(value, names[value]))
    replace_nodes(graph, ordered)
    for value, (scale, zero_point) in grids.items():
        graph.initializer.append(numpy_helper.from_array(scale, f"{names[value]}_scale"))
        graph.initializer.append(numpy_helper.from_array(zero_point, f"{names[value]}_zero_point"))


def replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Make these the nodes of a graph; each comes after the producers of what it reads."""
    made_by = {value: index for index, node in enumerate(nodes) for value in node.output}
    done: set[int] = set()
    ordered: list[NodeProto] = []
    for start in range(len(nodes)):
        waiting = [start]
        while waiting:
            index = waiting[-1]
            before = [made_by[value] for value in nodes[index].input if made_by.get(value, index) not in done | {index}]
            waiting.extend(reversed(before))
            if not before:
                waiting.pop()
                if index not in done:
                    done.add(index)
                    ordered.append(nodes[index])
    put_nodes(graph, ordered)


def remove_unread(graph: GraphProto) -> None:
    """Take out stored tensors that nothing reads, and the types of values, which may have changed."""
    drop_unread(graph)
    del graph.value_info[:]


def _free(value: str, taken: set[str]) -> str:
    """Return a name for what belongs to a pair: the value's, with something behind it if that has a pair already."""
    while f"{value}_scale" in taken:
        value += "_again"
    return value


def _pair(value: str, name: str) -> tuple[NodeProto, NodeProto]:
    given, numbers = [f"{name}_scale", f"{name}_zero_point"], f"{name}_QuantizeLinear_Output"
    quantize = helper.make_node("QuantizeLinear", [value, *given], [numbers], f"{name}_QuantizeLinear")
    made = f"{name}_DequantizeLinear_Output"
    return quantize, helper.make_node("DequantizeLinear", [numbers, *given], [made], f"{name}_DequantizeLinear")
