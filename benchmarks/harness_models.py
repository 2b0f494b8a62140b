"""Networks of known latency: a small CNN of about a millisecond, and slower versions of it by a chosen step.

A slower version has a side branch: a convolution of `extra` channels on a middle feature map, added to the output with
the weight 0.01. Its true slowdown is what long paired measurements on the quiet machine say (`harness.py calibrate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

#: Input channels, output channels, stride of each convolution; the input is [1, 3, 48, 48].
LAYERS = ((3, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1))
SIZE, CLASSES, BRANCH_AT = 48, 10, 5


def write_network(path: Path, extra: int = 0, steps: int = 0, seed: int = 0) -> Path:
    """Write the CNN as ONNX with fixed weights, with a side branch of `extra` channels and `steps` operators more."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def constant(name: str, *shape: int) -> str:
        values = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    value = "image"
    for index, (inputs, outputs, stride) in enumerate(LAYERS):
        weight = constant(f"w{index}", outputs, inputs, 3, 3)
        nodes.append(
            helper.make_node("Conv", [value, weight], [f"c{index}"], pads=[1, 1, 1, 1], strides=[stride, stride])
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value = f"r{index}"
    nodes.append(helper.make_node("ReduceMean", [value], ["mean"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["mean", constant("fc", LAYERS[-1][1], CLASSES)], ["main"]))
    result = "main"
    if extra:
        inputs = LAYERS[BRANCH_AT][1]
        nodes += [
            helper.make_node("Conv", [f"r{BRANCH_AT}", constant("wb", extra, inputs, 3, 3)], ["cb"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["cb"], ["rb"]),
            *(helper.make_node("Abs", ["rb" if each == 0 else f"a{each - 1}"], [f"a{each}"]) for each in range(steps)),
            helper.make_node("ReduceMean", [f"a{steps - 1}" if steps else "rb"], ["mb"], axes=[1, 2, 3], keepdims=1),
            helper.make_node("Reshape", ["mb", "flat"], ["fb"]),
            helper.make_node("Mul", ["fb", "little"], ["lb"]),
            helper.make_node("Add", ["main", "lb"], ["sum"]),
        ]
        weights += [
            numpy_helper.from_array(np.array([1, 1], np.int64), "flat"),
            numpy_helper.from_array(np.array([0.01], np.float32), "little"),
        ]
        result = "sum"
    inputs_ = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])]
    outputs_ = [helper.make_tensor_value_info(result, TensorProto.FLOAT, [1, CLASSES])]
    graph = helper.make_graph(nodes, "cnn", inputs_, outputs_, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_tiny(path: Path, layers: int = 12) -> Path:
    """Write a network of many convolutions of 4 channels on 8 x 8: what it needs is the calling of operators."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "image"
    for index in range(layers):
        weights.append(numpy_helper.from_array(rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6, f"w{index}"))
        nodes += [
            helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", [f"c{index}"], [f"s{index}"]),
            helper.make_node("Mul", [f"c{index}", f"s{index}"], [f"m{index}"]),
        ]
        value = f"m{index}"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])]
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 4, 8, 8])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
