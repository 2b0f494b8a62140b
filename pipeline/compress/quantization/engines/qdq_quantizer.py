"""onnxruntime's placement of pairs, with what it gets wrong in version 1.31 put right.

It takes out each Relu and Clip whose input is quantized, whatever the bounds, as if the range behind it clipped in its
stead: here those alone that the grid behind them implies. Where such an input is an output of the network too, it would
get the range of what is clipped. A matrix product with stored numbers on its left, or with several matrices, would get
scales along an axis that no kernel reads.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxruntime.quantization import QDQQuantizer

from pipeline.compress.quantization.canonical import MATRIX
from pipeline.compress.quantization.qdq import clips_no_further
from pipeline.onnx_graph.links import Wiring, value_producers

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableSequence, Sequence

    from onnx import ModelProto, NodeProto

ACTIVATIONS = frozenset({"Clip", "Relu"})
#: Have integer kernels that return floats at no cost.
PRODUCTS = frozenset({"Gemm", "MatMul"})
#: Biases and the scales that they need are `biases.py`'s.
OWN_BIASES = {"QuantizeBias": False, "QDQDisableWeightAdjustForInt32Bias": True}


class Placement(QDQQuantizer):  # type: ignore[misc] # onnxruntime has no types
    """Where onnxruntime puts pairs."""

    def adjust_tensor_ranges(self) -> None:
        """Give what a Relu or Clip reads the range of what it makes, but for outputs of the network."""
        outputs = {value.name for value in self.model.graph().output}
        read = {node.input[0] for node in self.model.nodes() if node.op_type in ACTIVATIONS}
        own = {name: self.tensors_range[name] for name in outputs & read if name in self.tensors_range}
        super().adjust_tensor_ranges()
        for name, data in own.items():
            self.tensors_range[name] = data

    def try_replacing_upstream_output(self, upstream_output_name: str, output_name: str) -> bool:
        """Take out the activation function between two values, if rounding to the grid behind it does the same."""
        makers: dict[str, list[NodeProto]] = {}
        for each in self.model.nodes():
            for value in each.output:
                makers.setdefault(value, []).append(each)
        node = makers[output_name][-1]  # those that were taken out stand there until the end
        params = self.quantization_params.get(output_name)
        if params is None or (
            _is_product(upstream_output_name, makers) and self._ends(output_name)
        ):  # there products return floats, which none clips
            return False
        grid = params.original["scale"], params.original["zero_point"]
        if not clips_no_further(node, Wiring(self.model.graph()), grid):
            return False
        return bool(super().try_replacing_upstream_output(upstream_output_name, output_name))

    def _ends(self, value: str) -> bool:
        """Return whether a value leaves the network, followed only by activation functions."""
        if self.model.is_graph_output(value):
            return True
        readers = self.model.input_name_to_nodes().get(value, [])
        return any(each.op_type in ACTIVATIONS and self._ends(each.output[0]) for each in readers)

    def is_tensor_per_channel(
        self, tensor_name: str, default_axis: int, op_type: str | None = None
    ) -> tuple[bool, int | None]:
        """Return whether a stored tensor has a scale for each channel, and along which axis."""
        if op_type == "MatMul" and not self._is_matrix_on_the_right(tensor_name):
            return False, None
        found: tuple[bool, int | None] = super().is_tensor_per_channel(tensor_name, default_axis, op_type)
        return found

    def _is_matrix_on_the_right(self, name: str) -> bool:
        readers = self.model.input_name_to_nodes().get(name, [])
        stored = self.initializers.get(name)
        right = all(name not in node.input[:1] for node in readers if node.op_type == "MatMul")
        return right and stored is not None and len(stored.dims) == MATRIX


def _is_product(value: str, makers: Mapping[str, Sequence[NodeProto]]) -> bool:
    """Return whether a matrix product makes a value, followed only by activation functions."""
    return any(
        each.op_type in PRODUCTS or (each.op_type in ACTIVATIONS and _is_product(each.input[0], makers))
        for each in makers.get(value, [])
    )


def _before_pair(value: str, made_by: Mapping[str, NodeProto], readers: Counter[str]) -> NodeProto | None:
    """Return what makes a value, looking through a pair of which nothing else reads a part."""
    dequantize = made_by.get(value)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantize = made_by.get(dequantize.input[0])
    if quantize is None or readers[quantize.output[0]] > 1 or readers[quantize.input[0]] > 1:
        return None
    return made_by.get(quantize.input[0])


def _take_out_pair(nodes: MutableSequence[NodeProto], value: str, made_by: Mapping[str, NodeProto]) -> None:
    dequantize = made_by[value]
    quantize = made_by[dequantize.input[0]]
    nodes.remove(dequantize)
    nodes.remove(quantize)


def _hand_on(nodes: MutableSequence[NodeProto], value: str, made_by: Mapping[str, NodeProto]) -> None:
    """Let the pair in front of an output come after it, for the nodes that read the output too."""
    dequantize = made_by[value]
    made_by[dequantize.input[0]].input[0] = value
    rounded = dequantize.output[0] = f"{value}_DequantizeLinear_Output"
    for node in nodes:
        node.input[:] = [rounded if each == value and node.op_type != "QuantizeLinear" else each for each in node.input]


def leave_outputs_in_float(model: ModelProto) -> None:
    """Take out the pair between a matrix product and an output of the network, and one before a Relu or Clip there.

    Other nodes that read the output still read it rounded, for their kernels. Eight bits would make ties of close
    logits, and the integer kernels of matrix products can return floats at no cost.
    """
    graph = model.graph
    ends = {value.name for value in graph.output}
    for output in graph.output:
        made_by = value_producers(graph)
        readers = Counter(value for node in graph.node for value in node.input)
        inner = last = _before_pair(output.name, made_by, readers)
        if last is not None and last.op_type in ACTIVATIONS:
            own = readers[last.input[0]] == 1 and last.input[0] not in ends
            inner = _before_pair(last.input[0], made_by, readers) if own else None
        if last is None or inner is None or inner.op_type not in PRODUCTS:
            continue
        if inner is not last:
            _take_out_pair(graph.node, last.input[0], made_by)
            last.input[0] = inner.output[0]
        if readers[output.name]:
            _hand_on(graph.node, output.name, made_by)
        else:
            _take_out_pair(graph.node, output.name, made_by)
        last.output[0] = output.name
    read = {value for node in graph.node for value in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
