"""Networks that the program writes itself: a small CNN for A/A comparisons, and one network for each physical limit.

Their weights come from one seed, so that a network always has the same bytes. The networks of the limits all take
`x` [1, 1024] and return [1, 16]: they can be measured together. Between the two, each keeps one part of the machine
busy: the units that multiply (in float32, in int8), the way from cache or memory, or the calling of operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

OPSET, IR_VERSION = 17, 8
#: Output channels and stride of each 3x3 convolution of the small CNN, whose input is [1, 3, 48, 48]: 30.2 M MACs.
LAYERS = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1))
IMAGE, CLASSES = 48, 10

WIDTH, RESULTS = 1024, 16
#: The product of matrices: ROWS x SIDE times SIDE x SIDE, this often.
ROWS, SIDE, PRODUCTS = 128, 512, 4
#: The convolution: CHANNELS to CHANNELS over PIXELS x PIXELS, 3x3, this often.
CHANNELS, PIXELS, CONVOLUTIONS = 64, 28, 4
PRODUCT_MACS = PRODUCTS * ROWS * SIDE**2
CONVOLUTION_MACS = CONVOLUTIONS * 9 * CHANNELS**2 * PIXELS**2
#: Scale of the 8-bit numbers in the quantized versions.
SCALE = 0.05


class _Graph:
    """Nodes and weights of a network that is being made; each method adds one step and returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - whatever ONNX attributes hold
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def numbers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int, fan: int) -> str:
        return self.constant((self.rng.standard_normal(shape, np.float32) / np.float32(fan**0.5)).astype(np.float32))

    def weight_int8(self, *shape: int) -> str:
        return self._dequantized(self.constant(self.rng.integers(-127, 128, shape, np.int8)), "int8")

    def quantized(self, value: str) -> str:
        scale, zero = self.constant(np.array(SCALE, np.float32)), self.constant(np.array(128, np.uint8))
        return self._dequantized(self.node("QuantizeLinear", value, scale, zero), "uint8", 128)

    def _dequantized(self, value: str, dtype: str, zero: int = 0) -> str:
        scale = self.constant(np.array(SCALE, np.float32))
        return self.node("DequantizeLinear", value, scale, self.constant(np.array(zero, dtype)))

    def first(self, value: str, count: int) -> str:
        """Keep the first `count` numbers of the second axis."""
        return self.node("Slice", value, self.numbers(0), self.numbers(count), self.numbers(1))

    def save(self, path: Path, given: tuple[str, list[int]], made: tuple[str, list[int]]) -> Path:
        inputs, outputs = (
            [helper.make_tensor_value_info(port[0], TensorProto.FLOAT, port[1])] for port in (given, made)
        )
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path


def write_small_cnn(path: Path) -> Path:
    """Write a CNN that takes about a millisecond on one core of a desktop processor, and some ten on a small board."""
    graph, value, inputs = _Graph(), "image", 3
    for outputs, stride in LAYERS:
        weight = graph.weight(outputs, inputs, 3, 3, fan=9 * inputs)
        value = graph.node("Relu", graph.node("Conv", value, weight, pads=[1, 1, 1, 1], strides=[stride, stride]))
        inputs = outputs
    value = graph.node("ReduceMean", value, axes=[2, 3], keepdims=0)
    value = graph.node("MatMul", value, graph.weight(inputs, CLASSES, fan=inputs))
    return graph.save(path, ("image", [1, 3, IMAGE, IMAGE]), (value, [1, CLASSES]))


def write_products(path: Path, *, int8: bool) -> Path:
    """Write a chain of matrix products, 134 M MACs."""
    graph = _Graph()
    value = graph.node("Expand", graph.first("x", SIDE), graph.numbers(ROWS, SIDE))
    for _ in range(PRODUCTS):
        given = graph.quantized(value) if int8 else value
        value = graph.node(
            "MatMul", given, graph.weight_int8(SIDE, SIDE) if int8 else graph.weight(SIDE, SIDE, fan=SIDE)
        )
    value = graph.quantized(value) if int8 else value
    value = graph.node("ReduceMean", value, axes=[0], keepdims=1)
    return graph.save(path, ("x", [1, WIDTH]), (graph.first(value, RESULTS), [1, RESULTS]))


def write_convolutions(path: Path, *, int8: bool) -> Path:
    """Write a chain of 3x3 convolutions, 116 M MACs: faster than products of matrices in some runtimes."""
    graph, c = _Graph(), CHANNELS
    value = graph.node("Reshape", "x", graph.numbers(1, c, 4, 4))
    value = graph.node("Tile", value, graph.numbers(1, 1, PIXELS // 4, PIXELS // 4))
    for _ in range(CONVOLUTIONS):
        given = graph.quantized(value) if int8 else value
        weight = graph.weight_int8(c, c, 3, 3) if int8 else graph.weight(c, c, 3, 3, fan=9 * c)
        value = graph.node("Conv", given, weight, pads=[1, 1, 1, 1])
    value = graph.quantized(value) if int8 else value
    value = graph.node("ReduceMean", value, axes=[2, 3], keepdims=0)
    return graph.save(path, ("x", [1, WIDTH]), (graph.first(value, RESULTS), [1, RESULTS]))


def write_fully_connected(path: Path, mebibytes: int) -> Path:
    """Write fully connected layers with so many MiB of float32 weights, each read once in an inference."""
    graph, value = _Graph(), "x"
    square = graph.rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    columns = mebibytes * 2**20 // (4 * WIDTH)
    for layer, begun in enumerate(range(0, columns, WIDTH)):
        # No two layers have the same weights: a runtime would keep them once.
        weight = np.roll(square, layer, axis=0)[:, : columns - begun].copy()
        value = graph.node("MatMul", value, graph.constant(weight))
    return graph.save(path, ("x", [1, WIDTH]), (graph.first(value, RESULTS), [1, RESULTS]))


def write_one_operator(path: Path) -> Path:
    """Write a network of one operator that does next to nothing: its time is that of a call."""
    graph = _Graph()
    return graph.save(path, ("x", [1, WIDTH]), (graph.first("x", RESULTS), [1, RESULTS]))
