"""Dynamic int8: matrix products quantize their input as they run, so that no calibration images are needed.

Weights are stored in 8 bits with a scale for each column; the range of the input is taken from the input itself, at
each call. It helps networks whose time is in matrix products (transformers, large classifiers). Convolutions stay in
float: onnxruntime's dynamic one (ConvInteger) takes no s8 weights. The placement is that of onnxruntime's quantizer.
OpenVINO reads the result and computes it in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode

from pipeline.compress.quantization.placement import matching_nodes
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

#: What the quantizer adds to the name of a Gemm when it becomes a MatMul.
_AS_PRODUCT = "_MatMul"


def dynamic_int8(
    model: ModelProto, *, reduced: bool = False, per_channel: bool = True, keep: Sequence[str] = ()
) -> ModelProto:
    """Return the graph with its matrix products by constants in dynamic int8; the given one stays as it is.

    Activations are u8, weights s8; `reduced` keeps weights in 7 bits, for x86-64 without VNNI. Nodes whose name matches
    a pattern of `keep` stay in float. Gemm becomes MatMul and Add where it neither scales nor transposes its data. The
    same graph gives the same bytes.

    Raises:
        InputError: the graph is quantized already, holds no matrix product by constant weights, or a pattern of `keep`
            matches no node.
    """
    if any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node):
        raise InputError("the file is quantized already; quantize the float file")
    kept = matching_nodes(model, keep)
    quantizer = ONNXQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel,
        reduced,
        QuantizationMode.IntegerOps,
        False,  # noqa: FBT003 - positional in that class: ranges are not known beforehand
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        [],
        sorted({*kept, *(f"{name}{_AS_PRODUCT}" for name in kept)}),
        ["MatMul"],
        {"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    result: ModelProto = quantizer.model.model
    if not any(node.op_type == "MatMulInteger" for node in result.graph.node):
        raise InputError(
            "found no matrix product (MatMul, Gemm) by constant weights, which is what dynamic int8 is for"
        )
    return result
