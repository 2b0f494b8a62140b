"""Weights of matrix products in blocks of 4 or 8 bits, computed in float: for the size of the file.

Each column of a weight is cut into blocks along the reduction axis, and every block has a scale of its own, so that one
large weight costs precision only to its neighbours. The operator is onnxruntime's MatMulNBits, which unpacks as it
multiplies and which OpenVINO reads as well. It is not faster than float32 where the weights fit the caches.
Convolutions have no such operator and stay as they are.

Source: Dettmers et al. 2022 (block-wise quantization); layout as in onnxruntime's ContribOperators.md, MatMulNBits.
Limits: weights are constant, two-dimensional and float32; a Gemm neither scales nor transposes its data.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.compress.quantization.placement import matching_nodes
from pipeline.core.errors import InputError
from pipeline.onnx_graph.file import drop_unread, put_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

Bits = Literal[4, 8]
_DOMAIN = "com.microsoft"
_SMALLEST_BLOCK = 16


def block_weights(model: ModelProto, *, bits: Bits = 4, block_size: int = 32, keep: Sequence[str] = ()) -> ModelProto:
    """Return the graph with the weights of its matrix products in blocks of `block_size`; the given one stays.

    A weight that would not become smaller stays in float, and so do those of nodes whose name matches a pattern of
    `keep`. The same graph gives the same bytes.

    Raises:
        InputError: the block size is no power of two from 16 on, a pattern matches no node, or no weight qualifies.
    """
    if block_size < _SMALLEST_BLOCK or block_size & (block_size - 1):
        raise InputError(f"found a block size of {block_size}; allowed: powers of two from {_SMALLEST_BLOCK} on")
    kept = matching_nodes(model, keep)
    result = deepcopy(model)
    graph = result.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    packed: dict[str, tuple[TensorProto, TensorProto]] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight_KN = None if node.name in kept else _weight(node, stored)
        if weight_KN is None or not _smaller(weight_KN.shape, bits, block_size):
            nodes.append(node)
            continue
        key = f"{node.input[1]}{'.T' if _attributes(node).get('transB', 0) else ''}"
        if key not in packed:
            packed[key] = _tensors(f"{key}.{bits}bit", weight_KN, bits, block_size)
        nodes += _replaced(node, packed[key], weight_KN.shape, bits, block_size)
    if not packed:
        raise InputError("found no matrix product (MatMul, Gemm) by constant float32 weights that would become smaller")
    put_nodes(graph, nodes)
    graph.initializer.extend(tensor for pair in packed.values() for tensor in pair)
    drop_unread(graph)
    if not any(each.domain == _DOMAIN for each in result.opset_import):
        result.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return result


def packed_blocks(
    weight_KN: NDArray[np.float32], bits: Bits, block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return weights [N, blocks, bytes] of `bits` bits each and scales [N, blocks].

    A block's scale maps its largest magnitude to the lowest number, -2^(bits - 1), whichever sign that gives the
    scale: so all numbers are used. Stored numbers have 2^(bits - 1) added; the first of two in a byte is its low half.
    """
    inner, width = weight_KN.shape
    blocks = -(-inner // block_size)
    padded = np.zeros((width, blocks * block_size), np.float32)
    padded[:, :inner] = weight_KN.T
    grouped = padded.reshape(width, blocks, block_size)
    middle = 2 ** (bits - 1)
    peak = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)
    scales = np.where(peak == 0, np.float32(1), peak / np.float32(-middle))
    numbers = np.clip(np.rint(grouped / scales) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:  # noqa: PLR2004 - two of them share a byte
        numbers = numbers[..., 0::2] | numbers[..., 1::2] << 4
    return numbers, scales[..., 0].astype(np.float32)


def _weight(node: NodeProto, stored: dict[str, TensorProto]) -> NDArray[np.float32] | None:
    """Return the weights [K, N] of a product that can be replaced."""
    if node.op_type not in {"MatMul", "Gemm"} or node.domain or node.input[1] not in stored:
        return None
    tensor, attributes = stored[node.input[1]], _attributes(node)
    scaled = attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2 or scaled or attributes.get("transA", 0):  # noqa: PLR2004 - a matrix
        return None
    weight = numpy_helper.to_array(tensor)
    return weight.T if attributes.get("transB", 0) else weight


def _smaller(shape: tuple[int, ...], bits: Bits, block_size: int) -> bool:
    inner, width = shape
    blocks = -(-inner // block_size)
    return width * blocks * (block_size * bits // 8 + 4) < 4 * inner * width


def _tensors(name: str, weight_KN: NDArray[np.float32], bits: Bits, block_size: int) -> tuple[TensorProto, TensorProto]:
    numbers, scales = packed_blocks(weight_KN, bits, block_size)
    return numpy_helper.from_array(numbers, name), numpy_helper.from_array(scales, f"{name}.scales")


def _replaced(
    node: NodeProto, tensors: tuple[TensorProto, TensorProto], shape: tuple[int, ...], bits: Bits, block_size: int
) -> list[NodeProto]:
    """Return the nodes that take the place of a product: itself in blocks, and its bias."""
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] else ""  # noqa: PLR2004
    output = f"{node.output[0]}.product" if bias else node.output[0]
    inputs = [node.input[0], *(tensor.name for tensor in tensors)]
    product = helper.make_node("MatMulNBits", inputs, [output], node.name, domain=_DOMAIN)
    sizes = {"K": shape[0], "N": shape[1], "bits": bits, "block_size": block_size}
    product.attribute.extend(helper.make_attribute(name, size) for name, size in sizes.items())
    added = [helper.make_node("Add", [output, bias], [node.output[0]], f"{node.name}.bias")] if bias else []
    return [product, *added]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
