"""Edits of a QDQ graph that make it alike for all engines, so that runtimes find their integer kernels.

Engines place QuantizeLinear / DequantizeLinear pairs for the runtime that they were made for. What onnxruntime needs
beyond that is added here: one type for all activations, no activation function in front of a QuantizeLinear that clips
anyway, pairs behind operators that only move values, and a pair after each convolution. Only the last changes numbers:
outputs of convolutions are rounded. All functions work in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.quantization.placement import PRODUCTS, QUANTIZABLE
from pipeline.compress.quantization.qdq import SIGN, clips_no_further, insert_pairs, replace_nodes
from pipeline.onnx_graph.links import SCALE, ZERO_POINT, Wiring

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import GraphProto, NodeProto

    from pipeline.onnx_graph.links import Grid

#: Operators whose outputs are values of their inputs, elsewhere. Concat has several inputs of data, the others one.
MOVERS = frozenset({"Concat", "Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
ACTIVATIONS = frozenset({"Clip", "Relu"})


def retype(graph: GraphProto, kind: type[np.uint8 | np.int8]) -> None:
    """Give all activations this type: moving numbers and zero point by 128 stands for the same values."""
    wiring = Wiring(graph)
    for name in {node.input[ZERO_POINT] for node in graph.node if node.op_type == "QuantizeLinear"}:
        numbers = wiring.numbers(name)
        if numbers.dtype != kind:
            shift = SIGN if kind is np.uint8 else -SIGN
            moved = (numbers.astype(np.int16) + shift).astype(kind)
            wiring.store(name, moved)


def centre(graph: GraphProto) -> None:
    """Widen the ranges of activations so that their zero points lie in the middle; scales grow accordingly."""
    wiring = Wiring(graph)
    grids = {node.input[ZERO_POINT]: node.input[SCALE] for node in graph.node if node.op_type == "QuantizeLinear"}
    for zero_point_name, scale_name in grids.items():
        zero_point = wiring.numbers(zero_point_name)
        lowest, middle = int(np.iinfo(zero_point.dtype).min), int(np.iinfo(zero_point.dtype).min) + SIGN
        reach = max(int(zero_point) - lowest, lowest + 2 * SIGN - 1 - int(zero_point))
        if int(zero_point) != middle:
            scale = np.asarray(wiring.numbers(scale_name) * np.float32(reach / (SIGN - 1)), np.float32)
            wiring.store(scale_name, scale)
            moved = np.array(middle, zero_point.dtype)
            wiring.store(zero_point_name, moved)


def drop_clipped_twice(graph: GraphProto) -> None:
    """Take out each Relu or Clip that stands before QuantizeLinear alone and clips no further than that does."""
    wiring = Wiring(graph)
    dropped = [node for node in graph.node if node.op_type in ACTIVATIONS and _is_clipped_again(node, wiring)]
    gone = {node.output[0]: node.input[0] for node in dropped}
    for node in graph.node:
        node.input[:] = [gone.get(value, value) for value in node.input]
    replace_nodes(graph, [node for node in graph.node if node.output[0] not in gone])


def follow_movers(graph: GraphProto) -> None:
    """Put a pair behind operators that only move quantized values, so that what reads them finds integers."""
    wiring = Wiring(graph)
    found: dict[str, Grid] = {}
    for node in graph.node:
        data = node.input if node.op_type == "Concat" else node.input[:1]
        same = _common(found.get(value) or wiring.activation_grid(value) for value in data) if data else None
        if same is not None and node.op_type in MOVERS:
            found |= {value: same for value in node.output if _wants_integers(value, wiring)}
    insert_pairs(graph, found)


def finish_convolutions(graph: GraphProto, *, symmetric: bool) -> tuple[str, ...]:
    """Return the values behind integer convolutions, and additions to them, that lack a pair for want of a scale.

    A Relu or Clip that alone reads a convolution belongs to it if a pair after it clips instead, which symmetric
    ranges cannot. Where some readers of such a value have it quantized, the others get it so here, but for products:
    those stay in float, and runtimes would quantize the weights of one that reads it.
    """
    wiring = Wiring(graph)
    integer = [node for node in graph.node if _is_convolution(node, wiring) or _adds_to_convolution(node, wiring)]
    values = [node.output[0] if symmetric else _end(node, wiring) for node in integer]
    unfinished = [value for value in values if value not in wiring.outputs and not wiring.is_quantized_behind(value)]
    lacking = tuple(value for value in unfinished if not _share(value, wiring))
    replace_nodes(graph, list(graph.node))
    return lacking


def _wants_integers(value: str, wiring: Wiring) -> bool:
    """Return whether a value is not quantized yet and some reader could use it."""
    readers = {reader.op_type for reader in wiring.read_by.get(value, [])}
    return "QuantizeLinear" not in readers and bool(readers & QUANTIZABLE)


def _is_clipped_again(node: NodeProto, wiring: Wiring) -> bool:
    """Return whether rounding to each grid after a node gives the same numbers without it."""
    if node.output[0] in wiring.outputs or not wiring.is_quantized_behind(node.output[0]):
        return False
    return all(
        clips_no_further(node, wiring, (wiring.numbers(reader.input[SCALE]), wiring.numbers(reader.input[ZERO_POINT])))
        for reader in wiring.read_by[node.output[0]]
    )


def _common(grids: Iterable[Grid | None]) -> Grid | None:
    """Return the grid that all have, per tensor and of one type; None where one has another, or none."""
    first, *others = grids
    if first is None or first[0].size > 1:
        return None
    scale, zero_point = first
    for other in others:
        if other is None or other[0] != scale or other[1] != zero_point or other[1].dtype != zero_point.dtype:
            return None
    return first


def _is_convolution(node: NodeProto, wiring: Wiring) -> bool:
    return node.op_type in CONVOLUTIONS and all(wiring.grid(value) is not None for value in node.input[:2])


def _adds_to_convolution(node: NodeProto, wiring: Wiring) -> bool:
    """Return whether a node adds integers of which some are the output of a convolution."""
    if node.op_type != "Add" or any(wiring.activation_grid(value) is None for value in node.input):
        return False
    quantizers = [wiring.made_by[wiring.made_by[value].input[0]] for value in node.input]
    makers = [wiring.made_by.get(quantize.input[0]) for quantize in quantizers]
    return any(maker is not None and maker.op_type in CONVOLUTIONS for maker in makers)


def _end(node: NodeProto, wiring: Wiring) -> str:
    """Return the output of a convolution, or that of the activation function that alone reads it and belongs to it."""
    readers = wiring.read_by.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and node.output[0] not in wiring.outputs:
        behind = str(readers[0].output[0])
        operators = {reader.op_type for reader in wiring.read_by.get(behind, [])}
        if "QuantizeLinear" not in operators or (len(operators) > 1 and not operators & PRODUCTS):
            return behind
    return str(node.output[0])


def _share(value: str, wiring: Wiring) -> bool:
    """Let all readers of a value read what some read: what comes out of its pair. Return False if it has none."""
    others = [node for node in wiring.read_by.get(value, []) if node.op_type != "QuantizeLinear"]
    pairs = [
        dequantize
        for quantize in wiring.readers(value, "QuantizeLinear")
        for dequantize in wiring.readers(quantize.output[0], "DequantizeLinear")
    ]
    if not pairs or any(node.op_type in PRODUCTS for node in others):
        return False
    for node in others:
        node.input[:] = [pairs[0].output[0] if each == value else each for each in node.input]
    return True
