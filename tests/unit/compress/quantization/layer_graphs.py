"""Float graphs with layers of every kind, by name, to be quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from tests.unit.compress.quantization.graphs import floats, model_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto

    Array = NDArray[np.float32]

SAMPLES = np.maximum(floats(24, 4, 9, 9, seed=5) + floats(24, 1, 9, 9, seed=6), -0.5)


def weight(*shape: int, seed: int = 0) -> Array:
    """Return weights whose outputs keep the size of their inputs."""
    return (floats(*shape, seed=seed) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def convolution(shape: tuple[int, ...], *, bias: bool = True, **attributes: Any) -> ModelProto:  # noqa: ANN401
    """Return a convolution between a ReLU and a head."""
    constants = {"conv.weight": weight(*shape), "fc.weight": weight(5, shape[0], seed=1), "fc.bias": floats(5)}
    constants |= {"conv.bias": floats(shape[0], seed=2) / 4} if bias else {}
    given = ["first", "conv.weight"] + (["conv.bias"] if bias else [])
    nodes = [
        helper.make_node("Relu", ["input"], ["first"], "relu"),
        helper.make_node("Conv", given, ["conv"], "conv", **attributes),
        helper.make_node("GlobalAveragePool", ["conv"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    return model_of(nodes, {"input": (1, 4, 9, 9)}, ["logits"], constants)


def sequence() -> ModelProto:
    """Return a convolution over a sequence, strided and padded on one side."""
    constants = {"shape": np.array([0, 4, -1]), "conv.weight": weight(6, 4, 5), "conv.bias": floats(6) / 4}
    nodes = [
        helper.make_node("Reshape", ["input", "shape"], ["first"], "reshape"),
        helper.make_node(
            "Conv", ["first", "conv.weight", "conv.bias"], ["conv"], "conv", strides=[2], pads=[2, 0], dilations=[2]
        ),
        helper.make_node("ReduceMean", ["conv"], ["logits"], "mean"),
    ]
    return model_of(nodes, {"input": (1, 4, 9, 9)}, ["logits"], constants)


def product(*, transposed: bool, tokens: bool = False) -> ModelProto:
    """Return a linear layer: a Gemm with its weights by rows or by columns, or a MatMul over tokens."""
    wide = weight(12, 324 if not tokens else 81, seed=3)
    constants = {"shape": np.array([0, -1] if not tokens else [0, 4, -1]), "fc.weight": wide if transposed else wide.T}
    node = helper.make_node("MatMul", ["flat", "fc.weight"], ["logits"], "fc")
    if not tokens:
        constants["fc.bias"] = floats(12)
        given = ["flat", "fc.weight", "fc.bias"]
        node = helper.make_node("Gemm", given, ["logits"], "fc", transB=int(transposed))
    return model_of(
        [helper.make_node("Reshape", ["input", "shape"], ["flat"], "reshape"), node],
        {"input": (1, 4, 9, 9)},
        ["logits"],
        constants,
    )


def twice() -> ModelProto:
    """Return a convolution that is computed twice, one after the other, as `conv` and `again`."""
    model = convolution((4, 4, 3, 3), pads=[1, 1, 1, 1])
    again = onnx.NodeProto()
    again.CopyFrom(model.graph.node[1])
    again.name, again.input[0], again.output[0] = "again", "conv", "conv2"
    model.graph.node[2].input[0] = "conv2"
    model.graph.node.insert(2, again)
    return model


LAYERS: dict[str, Callable[[], ModelProto]] = {
    "plain": lambda: convolution((8, 4, 3, 3), pads=[1, 1, 1, 1]),
    "no bias": lambda: convolution((8, 4, 3, 3), bias=False),
    "depthwise": lambda: convolution((4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "multiplier": lambda: convolution((8, 1, 5, 5), group=4, pads=[2, 2, 2, 2]),
    "grouped": lambda: convolution((6, 2, 3, 3), group=2),
    "pointwise": lambda: convolution((16, 4, 1, 1)),
    "strided": lambda: convolution((8, 4, 3, 3), strides=[2, 3], pads=[0, 1, 2, 0]),
    "dilated": lambda: convolution((8, 4, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1]),
    "oblong": lambda: convolution((8, 4, 1, 5), pads=[0, 2, 0, 2]),
    "same": lambda: convolution((8, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    "sequence": sequence,
    "rows": lambda: product(transposed=True),
    "columns": lambda: product(transposed=False),
    "tokens": lambda: product(transposed=False, tokens=True),
}
