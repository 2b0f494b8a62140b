"""Nodes that are to stay in float stay so in onnxruntime too, which else takes them back.

A float node between pairs of QuantizeLinear and DequantizeLinear looks as if it were quantized: onnxruntime fuses an
addition into an integer one, and quantizes a convolution's weights when it loads the file (its optimizer
WeightBiasQuantization, 1.31). A LeakyRelu of slope 1 in front, which changes nothing and which no optimizer removes,
holds the node in float, for the time of one pass over its input.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from onnx import helper

from pipeline.compress.quantization.qdq import TRANSPARENT, clips_no_further, replace_nodes
from pipeline.onnx_graph.file import put_nodes
from pipeline.onnx_graph.links import SCALE, ZERO_POINT, Wiring

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx import ModelProto, NodeProto

    from pipeline.onnx_graph.links import Grid

#: With a slope of 1.
HOLDS = "LeakyRelu"
#: How far apart bounds are alike to the optimizer that drops clips, with a little more for rounding.
FUSED = 1.3e-7
#: A grid whose steps are larger by this factor is another one.
_COARSER = 1.01


def hold_in_float(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy of a QDQ graph in which the nodes of these names are computed in float.

    Only nodes that read dequantized activations and whose result is quantized again need to be held.
    """
    result = deepcopy(model)
    graph = result.graph
    wiring = Wiring(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in names and wiring.is_quantized_behind(node.output[0], TRANSPARENT):
            for place, value in enumerate(node.input):
                if wiring.is_activation(value):
                    held = f"{node.name}.float{place or ''}"
                    nodes.append(helper.make_node(HOLDS, [value], [held], held, alpha=1.0))
                    node.input[place] = held
        nodes.append(node)
    put_nodes(graph, nodes)
    return result


def hold_clips(model: ModelProto) -> ModelProto:
    """Return a copy of a QDQ graph in which each Clip that is in it keeps its bounds in both runtimes.

    onnxruntime drops one whose bounds differ from those of the QuantizeLinear after it by less than 1e-7, whatever the
    size of the values (ClipQuantFusion). OpenVINO clips the integers in front and rounds the bounds to their grid,
    which may be much coarser than that of the result.
    """
    result = deepcopy(model)
    wiring = Wiring(result.graph)
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        if node.op_type == "Clip" and _is_rounded(node, wiring):
            nodes.append(
                helper.make_node(HOLDS, [node.input[0]], [f"{node.name}.float"], f"{node.name}.float", alpha=1.0)
            )
            node.input[0] = f"{node.name}.float"
        nodes.append(node)
        if node.op_type == "Clip" and node.output[0] not in wiring.outputs and _looks_needless(node, wiring):
            made, clipped = node.output[0], f"{node.name}.clipped"
            node.output[0] = clipped
            nodes.append(helper.make_node(HOLDS, [clipped], [made], clipped, alpha=1.0))
    replace_nodes(result.graph, nodes)
    return result


def _grids_behind(node: NodeProto, wiring: Wiring) -> list[Grid]:
    readers = wiring.readers(node.output[0], "QuantizeLinear")
    return [(wiring.numbers(each.input[SCALE]), wiring.numbers(each.input[ZERO_POINT])) for each in readers]


def _is_rounded(node: NodeProto, wiring: Wiring) -> bool:
    """Say whether the grid in front of a Clip is coarser than each one behind it."""
    before = wiring.activation_grid(node.input[0])
    return before is not None and all(before[0] > _COARSER * behind[0] for behind in _grids_behind(node, wiring))


def _looks_needless(node: NodeProto, wiring: Wiring) -> bool:
    """Say whether a grid behind a Clip reaches further than its bounds, but by no more than the optimizer sees."""
    return any(
        not clips_no_further(node, wiring, grid) and clips_no_further(node, wiring, grid, apart=FUSED)
        for grid in _grids_behind(node, wiring)
    )
