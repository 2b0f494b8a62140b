"""Which nodes of a graph are quantized: what can be, what a person keeps in float, and what came of it."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import onnx
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from pipeline.core.errors import InputError, StageError
from pipeline.onnx_graph.links import Wiring, value_producers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto, NodeProto

#: Operators that onnxruntime has integer kernels for.
QUANTIZABLE = frozenset(QDQRegistry) | frozenset(QLinearOpsRegistry)
#: Both inputs must be quantized; of other operators the first.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Have integer kernels that return floats; others must be quantized behind.
_RETURN_FLOATS = frozenset({"Gemm", "MatMul"})
#: QuantizeLinear has a scale for each channel since then.
_OLDEST_OPSET = 13
WEIGHT, BIAS = 1, 2
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def require_float_and_folded(model: ModelProto) -> None:
    """Check that a graph can be quantized.

    Raises:
        InputError: it is quantized already, or its operators are too old.
        StageError: a batch norm alone reads a convolution, which could take it: it would be computed in float.
    """
    opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    if opset < _OLDEST_OPSET:
        needed = f"{_OLDEST_OPSET} (one scale for each channel)"
        raise InputError(f"the file has opset {opset}, quantization needs {needed}; export it again")
    readers = Counter(value for node in model.graph.node for value in node.input)
    readers.update(value.name for value in model.graph.output)
    made_by = value_producers(model.graph)
    for node in model.graph.node:
        if "Quantize" in node.op_type or node.op_type.startswith("QLinear"):
            raise InputError(f"the file is quantized already ({node.op_type} {node.name}); quantize the float file")
        behind = made_by.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if behind is not None and behind.op_type == "Conv" and readers[node.input[0]] == 1:
            raise StageError(
                f"batch norm {node.name} follows convolution {behind.name} and would be computed in float: put a "
                "simplify stage before quantize, which folds it"
            )


def matching_nodes(model: ModelProto, patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of nodes that match any shell-style pattern. Raises InputError for a pattern without a match."""
    names = [node.name for node in model.graph.node]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            quantizable = ", ".join(node.name for node in model.graph.node if node.op_type in QUANTIZABLE)
            raise InputError(f'keep: "{pattern}" matches no node; the nodes that can be quantized are {quantizable}')
    return nodes_like(model, patterns)


def nodes_like(model: ModelProto, patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of nodes that match any shell-style pattern; one may match nothing that is left of the graph."""
    names = (node.name for node in model.graph.node)
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def left_in_float(model: ModelProto) -> dict[str, str]:
    """Return the nodes of a float graph that no quantizer gets right, and why each stays in float."""
    stored = {tensor.name for tensor in model.graph.initializer}
    found = dict.fromkeys(_softmax_over_one(model), "it is always 1, of which onnxruntime's integers make 0")
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            found[node.name] = "no convolution can absorb this batch norm"
        elif node.op_type == "Gemm" and any(each.name in {"alpha", "beta"} and each.f != 1 for each in node.attribute):
            found[node.name] = "what alpha multiplies is computed"
        elif node.op_type == "Gemm" and node.input[BIAS:] and not stored.issuperset(node.input[WEIGHT:]):
            found[node.name] = "its weight is computed, its bias is not"
    return found


def _softmax_over_one(model: ModelProto) -> Iterator[str]:
    """Yield the names of nodes whose softmax is over a single number, as shape inference tells."""
    nodes = [node for node in model.graph.node if node.op_type == "Softmax"]
    values = onnx.shape_inference.infer_shapes(model).graph.value_info if nodes else ()
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    for node in nodes:
        axis = next((each.i for each in node.attribute if each.name == "axis"), -1)
        dims = shapes.get(node.input[0], ())
        if dims and dims[axis].dim_value == 1:
            yield node.name


def suspect_nodes(model: ModelProto, keep: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes of a float graph that can go back to float, in the order of computation.

    Also those that no engine quantizes: what it leaves out or computes otherwise may be any node.
    """
    kept = nodes_like(model, keep)
    nodes = (node.name for node in model.graph.node if node.name and node.op_type != "Constant")
    return tuple(name for name in nodes if name not in kept)


def count_integer_nodes(model: ModelProto, kept: frozenset[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return how many nodes of each operator work on integers in a QDQ graph, and the names of the others.

    A node does when its data comes out of DequantizeLinear (of a product both factors) and goes into QuantizeLinear;
    only matrix products have integer kernels that return floats. A Relu or Clip between counts as float: engines leave
    out those that the QuantizeLinear makes needless.
    """
    wiring = Wiring(model.graph)

    def on_integers(node: NodeProto) -> bool:
        if node.op_type not in QUANTIZABLE or node.name in kept:
            return False
        given = node.input[: 2 if node.op_type in PRODUCTS else 1]
        known = bool(given) and all(map(wiring.dequantizer, given))
        return known and (node.op_type in _RETURN_FLOATS or wiring.is_quantized_behind(node.output[0]))

    nodes = [node for node in model.graph.node if node.op_type not in PAIR]
    counts = Counter(node.op_type for node in nodes if on_integers(node))
    return dict(sorted(counts.items())), tuple(node.name for node in nodes if not on_integers(node))
