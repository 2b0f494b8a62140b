"""What a quantized torch graph (PT2E) says about the ONNX graph that it was made from.

Each node of the ONNX graph becomes a module of its own, so that `torch.export` records of every operator which node it
computes. From the quantize and dequantize operators of the converted graph then follows which values of the ONNX graph
are quantized, on which scale, and for which of their readers.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional

from pipeline.compress.quantization import qdq
from pipeline.compress.quantization.torch_graph.graph_module import GraphModule, GraphStep
from pipeline.compress.quantization.torch_graph.operators import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import GraphProto, ModelProto, NodeProto

    from pipeline.onnx_graph.links import Grid

#: Path of a node's module, as `torch.export` records it.
_PLACE = re.compile(r"\bplaces\W+(\d+)")
#: Operators through which a weight may pass on its way to the product.
_VIEWS = frozenset({"t", "transpose", "permute", "view", "reshape", "detach", "clone"})
KINDS: dict[torch.dtype, type[np.uint8 | np.int8]] = {torch.uint8: np.uint8, torch.int8: np.int8}
#: Dimensions of a matrix, and bounds of a Clip.
MATRIX, BOUNDS = 2, 2
#: Functions by which PT2E quantizers find operators; `torch.export` records them only when it reads Python bytecode.
SOURCES: dict[Any, Any] = {
    torch.ops.aten.adaptive_avg_pool2d.default: functional.adaptive_avg_pool2d,
    torch.ops.aten.add.Tensor: torch.add,
    torch.ops.aten.conv1d.default: functional.conv1d,
    torch.ops.aten.conv2d.default: functional.conv2d,
    torch.ops.aten.hardswish.default: nn.Hardswish,
    torch.ops.aten.hardtanh.default: functional.hardtanh,
    torch.ops.aten.linear.default: functional.linear,
    torch.ops.aten.mul.Tensor: torch.mul,
    torch.ops.aten.relu.default: functional.relu,
    torch.ops.aten.silu.default: nn.SiLU,
}


class _Place(nn.Module):
    def __init__(self, step: GraphStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, *given: Any) -> Any:  # noqa: ANN401 - a tensor or several
        return OPERATORS[self.step.operator](self.step.attributes, *given)


class _Linear(_Place):
    """Computes a matrix product with stored weights as the operator that quantizers know."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        stored_as_rows = self.step.attributes.get("transB", 0)
        return functional.linear(x, weight if stored_as_rows else weight.t(), bias)


class _Clip(_Place):
    """Clips to stored bounds, which are no tensors then."""

    def __init__(self, step: GraphStep, low: float, high: float) -> None:
        super().__init__(step)
        self.bounds = low, high

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return functional.hardtanh(x, *self.bounds)


class _Norm(_Place):
    """Computes batch norm by a product and a sum: as an operator it would be folded into a convolution's weights."""

    def forward(self, x: Tensor, *numbers: Tensor) -> Tensor:
        weight, bias, mean, variance = numbers
        factor = weight / torch.sqrt(variance + self.step.attributes.get("epsilon", 1e-5))
        along = (1, -1, *[1] * (x.dim() - 2))
        return x * factor.reshape(along) + (bias - mean * factor).reshape(along)


class PlacedGraph(GraphModule):
    """A `GraphModule` in which each node is a module."""

    def __init__(self, model: ModelProto) -> None:
        """Read the graph. Raises InputError for an operator that has no counterpart in torch."""
        super().__init__(model)
        self.places = nn.ModuleList(map(self._module, self.steps))
        self.index = {step.outputs[0]: place for place, step in enumerate(self.steps)}

    def run_step(self, step: GraphStep, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        """Compute one node by its module."""
        return self.places[self.index[step.outputs[0]]](*given)

    def _module(self, step: GraphStep) -> _Place:
        bounds = [self.numbers[name] for name in step.inputs[1:] if name in self.numbers]
        if step.operator == "Clip" and len(bounds) == BOUNDS:
            return _Clip(step, float(bounds[0]), float(bounds[1]))
        if step.operator == "BatchNormalization":
            return _Norm(step)
        return _Linear(step) if self._is_linear(step) else _Place(step)

    def _is_linear(self, step: GraphStep) -> bool:
        plain = all(step.attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta")) and not step.attributes.get(
            "transA"
        )
        ranks = [self.numbers[name].ndim if name in self.numbers else None for name in step.inputs[1:]]
        return step.operator in {"Gemm", "MatMul"} and plain and ranks in ([MATRIX], [MATRIX, 1])


@dataclass
class Pairs:
    """Where a quantized graph has its pairs.

    `activations` are grids by value; `reads` says which nodes (by first output) read such a value quantized; `weights`
    are the grids of stored weights, by the first output of the product that reads them.
    """

    activations: dict[str, Grid] = field(default_factory=dict)
    reads: set[tuple[str, str]] = field(default_factory=set)
    weights: dict[str, Grid] = field(default_factory=dict)


def export(network: PlacedGraph, example: tuple[Tensor, ...]) -> tuple[fx.GraphModule, dict[str, str]]:
    """Return the network as operators, and the ONNX value that each computes, by the operator's name.

    Operators inside a node that computes in several have none. The graph takes batches of the example's size.
    """
    exported = torch.export.export(network, example, strict=False).module()
    inputs = iter(network.inputs)
    last: dict[int, str] = {}
    values: dict[str, str] = {}
    for node in exported.graph.nodes:
        place = _place(node)
        if node.op == "placeholder":
            values[node.name] = next(inputs)
        elif node.op == "call_function" and place is not None:
            node.meta["source_fn_stack"] = [(node.name, SOURCES.get(node.target, node.target))]
            if node.target is operator.getitem:
                values[node.name] = network.steps[place].outputs[node.args[1]]
            else:
                last[place] = node.name
    return exported, values | {name: network.steps[place].outputs[0] for place, name in last.items()}


def read_pairs(converted: fx.GraphModule, network: PlacedGraph, values: dict[str, str]) -> Pairs:
    """Return the pairs of a converted graph; those inside a node that computes in several operators are left out."""
    found = Pairs()
    for node in converted.graph.nodes:
        if not str(node.target).startswith("quantized_decomposed.quantize_per_"):
            continue
        readers = [user for dequantize in node.users for user in dequantize.users]
        makers = [network.steps[place].outputs[0] for place in map(_place, readers) if place is not None]
        grid = _grid(converted, node)
        if _is_stored(node.args[0]):
            found.weights |= dict.fromkeys(makers, grid)
        elif node.args[0].name in values:
            value = values[node.args[0].name]
            found.activations[value] = grid
            found.reads |= {(maker, value) for maker in makers}
    return found


def place_pairs(graph: GraphProto, found: Pairs, kept: frozenset[str]) -> None:
    """Put the pairs into the ONNX graph, in place; nodes that are kept read floats and have float weights."""
    names = {node.output[0]: node.name for node in graph.node}
    reads = {(maker, value) for maker, value in found.reads if names[maker] not in kept}
    wanted = {value: grid for value, grid in found.activations.items() if any(value == read for _, read in reads)}
    for node in list(graph.node):
        if node.output[0] in found.weights and node.name not in kept:
            _store_weight(graph, node, found.weights[node.output[0]])
    qdq.insert_pairs(graph, wanted, lambda node, value: (node.output[0], value) in reads)


def _place(node: fx.Node) -> int | None:
    """Return which node of the ONNX graph an operator belongs to."""
    stack = node.meta.get("nn_module_stack") or {}  # none for the copy of an input that is an output too
    found = [match for path, _ in stack.values() if (match := _PLACE.search(str(path)))]
    return int(found[-1][1]) if found else None


def _is_stored(source: fx.Node) -> bool:
    """Return whether what is quantized is a weight, perhaps transposed."""
    while str(source.target).removeprefix("aten.").partition(".")[0] in _VIEWS and len(source.all_input_nodes) == 1:
        source = source.all_input_nodes[0]
    return bool(source.op == "get_attr")


def _grid(module: fx.GraphModule, node: Any) -> Grid:  # noqa: ANN401 - an fx node, whose arguments have no types
    """Return scale and zero point of a quantize operator: (x, scale, zero point, [axis,] lowest, highest, type)."""
    scale, zero_point = (
        getattr(module, str(each.target)).detach().numpy() if isinstance(each, fx.Node) else np.array(each)
        for each in node.args[1:3]
    )
    return scale.astype(np.float32), zero_point.astype(KINDS[node.args[-1]])


def _output_axis(node: NodeProto, rank: int) -> int:
    """Return the axis of a product's weight that counts its outputs."""
    stored_as_rows = any(each.name == "transB" and each.i for each in node.attribute)
    return 0 if node.op_type == "Conv" or stored_as_rows else rank - 1


def _store_weight(graph: GraphProto, node: NodeProto, grid: Grid) -> None:
    """Store the weight of a product as integers, and let the product read what they stand for."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    name = node.input[1]
    if f"{name}_quantized" not in stored:
        weight = numpy_helper.to_array(stored[name])
        axis = _output_axis(node, weight.ndim)
        along = [-1 if dim == axis else 1 for dim in range(weight.ndim)] if grid[0].size > 1 else []
        scale, zero_point = (each.reshape(along) for each in grid)
        limits = np.iinfo(zero_point.dtype)
        numbers = np.clip(np.rint(weight / scale) + zero_point, limits.min, limits.max).astype(zero_point.dtype)
        shape = [-1] if along else []
        parts = {"quantized": numbers, "scale": scale.reshape(shape), "zero_point": zero_point.reshape(shape)}
        graph.initializer.extend(numpy_helper.from_array(part, f"{name}_{suffix}") for suffix, part in parts.items())
        given, made = [f"{name}_{suffix}" for suffix in parts], [f"{name}_DequantizeLinear_Output"]
        new = onnx.helper.make_node("DequantizeLinear", given, made, f"{name}_DequantizeLinear", axis=axis)
        graph.node.insert(0, new)
    node.input[1] = f"{name}_DequantizeLinear_Output"
