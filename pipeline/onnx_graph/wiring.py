"""Who makes and who reads each tensor of an ONNX graph, which nodes are layers, and how tensors are quantized.

Only the main graph is read; bodies of If and Loop are not.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.onnx_graph.links import DEQUANTIZE, QUANTIZE, Wiring, varying_values
from pipeline.results.file_inspection import Quantizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

DYNAMIC = "DynamicQuantizeLinear"
CONVERTERS = frozenset({QUANTIZE, DEQUANTIZE, DYNAMIC})
_WHOLE = re.compile(r"(?P<unsigned>u?)int(?P<bits>\d+)")
_BITS = re.compile(r"\d+")


class FileWiring(Wiring):
    """The wiring of a file, whose nodes get names of their own in place: that of the first output where one has none.

    `fixed` are tensors that do not depend on the network's input: constants, and what is computed of constants alone.
    """

    def __init__(self, model: ModelProto) -> None:
        super().__init__(model.graph)
        self.model = model
        known = Counter(node.name for node in model.graph.node)
        self.constants = dict(self.stored)
        for node in model.graph.node:
            if not node.name or known[node.name] > 1:
                node.name = node.output[0]
            if node.op_type == "Constant":
                self.constants.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
        self.fixed = (self.made_by.keys() | self.constants.keys()) - varying_values(model.graph)

    @property
    def layers(self) -> tuple[NodeProto, ...]:
        """The nodes that depend on the input and are no converters, in the order of computation."""
        nodes = self.model.graph.node
        return tuple(node for node in nodes if node.op_type not in CONVERTERS and node.output[0] not in self.fixed)

    def before(self, name: str) -> str:
        """Return the tensor that stands before the converters that make a tensor; itself where none does."""
        maker = self.made_by.get(name)
        for kind in (DEQUANTIZE, QUANTIZE):
            if maker is not None and maker.op_type == kind:
                name = maker.input[0]
                maker = self.made_by.get(name)
        return name

    def after(self, name: str) -> str:
        """Return the tensor after the first pair that reads a tensor; itself where none does."""
        for narrowed in self.readers(name, QUANTIZE):
            for widened in self.readers(narrowed.output[0], DEQUANTIZE):
                return str(widened.output[0])
        return name

    def narrowed(self, name: str) -> NodeProto | None:
        """Return the first QuantizeLinear that reads a tensor, if one does."""
        return next(iter(self.readers(name, QUANTIZE)), None)

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a stored tensor, None where it is computed."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the stored tensors that a fixed tensor is computed of, each once."""
        found, waiting = dict[str, None](), [name]
        while waiting:
            here = waiting.pop()
            if here in self.constants:
                found[here] = None
            elif here in self.made_by:
                waiting.extend(reversed([each for each in self.made_by[here].input if each]))
        return tuple(found)


def describe_quantizer(node: NodeProto, wiring: FileWiring, tensor: str) -> Quantizer:
    """Describe how a QuantizeLinear or DequantizeLinear quantizes; `tensor` is the name that it stands for."""
    scale = wiring.array(node.input[1]) if len(node.input) > 1 else None
    points = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - tensor, scale, zero point
    attributes = {each.name: each.i for each in node.attribute if each.name in {"axis", "block_size", "output_dtype"}}
    return quantizer_of(
        tensor,
        _type_name(node, wiring, points, attributes.get("output_dtype", 0)),
        scale,
        wiring.array(points),
        axis=attributes.get("axis", 1),
        block=attributes.get("block_size") or None,
    )


def quantizer_of(
    tensor: str,
    dtype: str,
    scale: NDArray[Any] | None,
    zero_point: NDArray[Any] | None,
    *,
    axis: int = 1,
    block: int | None = None,
) -> Quantizer:
    """Describe how a tensor is quantized by these scales and zero points; no scale: computed for each input."""
    common: dict[str, Any] = {"tensor": tensor, "dtype": dtype, "bits": bits_of(dtype)}
    if scale is None:
        return Quantizer(**common, scales=1)
    step = scale.astype(np.float64)
    zero = np.zeros_like(step) if zero_point is None else zero_point.astype(np.float64)
    several = step.size > 1
    bounds = _bounds(dtype)
    return Quantizer(
        **common,
        scales=step.size,
        axis=axis if several else None,
        block=block if several else None,
        scale_min=float(np.abs(step).min()),
        scale_max=float(np.abs(step).max()),
        zero_point_min=int(zero.min()),
        zero_point_max=int(zero.max()),
        low=None if bounds is None else min(float(((bound - zero) * step).min()) for bound in bounds),
        high=None if bounds is None else max(float(((bound - zero) * step).max()) for bound in bounds),
    )


def bits_of(dtype: str) -> int:
    """Return the bits of one number of a type, by its name: 4 for int4, 8 for float8e4m3fn."""
    found = _BITS.search(dtype)
    return int(found[0]) if found else 8


def type_name(data_type: int) -> str:
    """Return numpy's name of an ONNX type."""
    return str(onnx.helper.tensor_dtype_to_np_dtype(data_type).name)


def element_types(model: ModelProto) -> dict[str, str]:
    """Return the types of tensors that the file states or that onnx can infer, by name."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return {name: type_name(kind) for name, kind in known.items() if kind}


def stored_bytes(tensor: TensorProto) -> int:
    """Return the bytes of a stored tensor; numbers of four bits lie two in a byte."""
    numbers = int(np.prod(tensor.dims, dtype=np.int64))
    return (numbers * bits_of(type_name(tensor.data_type)) + 7) // 8


def _type_name(node: NodeProto, wiring: FileWiring, points: str, output_type: int) -> str:
    """Return the type of the whole numbers: that of the zero point, of what is read, or of what is asked for."""
    told = [points, *([node.input[0]] if node.op_type == DEQUANTIZE else [])]
    for name in told:
        if name in wiring.constants:
            return type_name(wiring.constants[name].data_type)
    return type_name(output_type) if output_type else "uint8"


def _bounds(dtype: str) -> tuple[int, int] | None:
    found = _WHOLE.fullmatch(dtype)
    if found is None:
        return None
    size = 2 ** int(found["bits"])
    return (0, size - 1) if found["unsigned"] else (-size // 2, size // 2 - 1)
