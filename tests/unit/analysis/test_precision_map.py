"""What ONNX files ask for: precision of every layer, weights, scales, zero points, ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic
from onnxruntime.quantization import quantize_static as quantize_with_onnxruntime

from pipeline.analysis.precision_map import onnx_precision_map
from pipeline.onnx_graph.file import read_onnx
from pipeline.onnx_graph.wiring import FileWiring
from tests.defaults import quantize_static

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.results.file_inspection import FileLayer


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands out samples one by one."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self.rest = [{"input": sample[None]} for sample in samples]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next sample."""
        return self.rest.pop() if self.rest else None


def layers(model: ModelProto) -> dict[str, FileLayer]:
    """Return the layers of a graph by name."""
    return {layer.name: layer for layer in onnx_precision_map(FileWiring(model)).layers}


def graph(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.generic]], *, size: int = 4) -> ModelProto:
    """Return a model that maps image [1, size] to logits."""
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in ("input", "logits")]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], stored), opset_imports=opsets)


def test_a_float_file_has_float_layers(exported: Path) -> None:
    """Weights as stored, no quantizer, biases among the parameters."""
    found = layers(read_onnx(exported))
    assert {layer.precision for layer in found.values()} == {"float32"}
    stem = found["stem"]
    assert (stem.operator, stem.parameters, stem.size_bytes) == ("Conv", 8 * 27 + 8, 4 * (8 * 27 + 8))
    assert stem.weights is not None
    assert (stem.weights.dtype, stem.weights.bits, stem.weights.shape, stem.weights.quantizer) == (
        "float32",
        32,
        (8, 3, 3, 3),
        None,
    )
    assert stem.weights.numbers == 8 * 27


def test_a_quantized_file_tells_every_scale(quantized: Path) -> None:
    """Weights have one scale for each channel, activations one; a ReLU is the lower end of a range."""
    found = layers(read_onnx(quantized))
    assert [(name, layer.precision) for name, layer in found.items() if layer.precision != "int8"] == [
        ("ReduceMean", "float32")
    ]
    stem, fc = found["stem"], found["fc"]
    assert stem.weights is not None
    assert stem.weights.quantizer is not None
    assert stem.makes is not None
    scales = stem.weights.quantizer
    assert (stem.weights.dtype, stem.weights.bits, scales.scales, scales.granularity) == ("int8", 8, 8, "per-channel")
    assert (scales.zero_point_min, scales.zero_point_max, scales.axis) == (0, 0, 0)
    assert stem.weights.size_bytes == 8 * 27
    assert (stem.makes.granularity, stem.makes.low, stem.makes.bounded_below) == ("per-tensor", 0.0, True)
    assert stem.makes.high == pytest.approx(255 * (stem.makes.scale_max or 0))
    assert [each.tensor for each in stem.reads] == ["input"]
    assert fc.makes is None
    assert fc.parameters == 8 * 4 + 4


def test_one_scale_for_a_tensor(exported: Path, samples: NDArray[np.float32]) -> None:
    """`per_channel: false` shows."""
    found = layers(quantize_static(read_onnx(exported), samples, scheme="u8s8", per_channel=False).model)
    weights = found["stem"].weights
    assert weights is not None
    assert weights.quantizer is not None
    assert (weights.quantizer.scales, weights.quantizer.granularity, weights.quantizer.axis) == (1, "per-tensor", None)


def test_kept_layers_are_float_and_links_pass_quantizers(exported: Path, samples: NDArray[np.float32]) -> None:
    """What reads a kept layer's output reads it through a pair, and the pair is told."""
    model = quantize_static(read_onnx(exported), samples, scheme="u8s8", keep=["depthwise"]).model
    found = onnx_precision_map(FileWiring(model))
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["depthwise"].precision == "float32"
    assert by_name["stem"].precision == by_name["fc"].precision == "int8"
    (link,) = [link for link in found.links if link.maker == "depthwise"]
    assert (link.tensor, link.reader, link.quantizer is not None) == ("depthwise", "Add", True)


def test_operators_on_integers(exported: Path, samples: NDArray[np.float32], tmp_path: Path) -> None:
    """QOperator format: the layer itself has the scales."""
    file = tmp_path / "operator.onnx"
    quantize_with_onnxruntime(
        str(exported), str(file), Reader(samples), quant_format=QuantFormat.QOperator, per_channel=True
    )
    described = onnx_precision_map(FileWiring(read_onnx(file)))
    found = {layer.operator: layer for layer in described.layers}
    convolution = found["QLinearConv"]
    (narrowed,) = (link for link in described.links if link.maker == "ReduceMean")
    assert narrowed.quantizer is not None
    assert convolution.precision == "int8"
    assert convolution.weights is not None
    assert convolution.weights.quantizer is not None
    assert convolution.weights.quantizer.scales == 8
    assert convolution.makes is not None
    assert convolution.makes.high is not None
    assert convolution.parameters == 8 * 9 + 8
    assert (convolution.reads[0].dtype, convolution.reads[0].bits) == ("int8", 8)


def test_dynamic_quantization_has_no_fixed_ranges(exported: Path, tmp_path: Path) -> None:
    """The scale of an activation is found anew for each input."""
    file = tmp_path / "dynamic.onnx"
    quantize_dynamic(str(exported), str(file), op_types_to_quantize=["Gemm", "MatMul"])
    found = {layer.operator: layer for layer in onnx_precision_map(FileWiring(read_onnx(file))).layers}
    assert found["MatMulInteger"].precision == "int8"
    (quantizer,) = found["MatMulInteger"].reads
    assert (quantizer.scale_min, quantizer.low, quantizer.scales) == (None, None, 1)
    assert found["Conv"].precision == "float32"


@pytest.mark.parametrize(("block", "scales"), [(None, 4), (2, 8)])
def test_weights_alone_of_four_bits(block: int | None, scales: int) -> None:
    """Float activations and widened weights; two numbers lie in a byte."""
    packed = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    weight = helper.make_tensor("weight", TensorProto.INT4, [4, 4], packed.flatten().tolist())
    shape = (4,) if block is None else (2, 4)
    attributes = {"axis": 1} if block is None else {"axis": 0, "block_size": block}
    model = graph(
        [
            helper.make_node("DequantizeLinear", ["weight", "scale"], ["wide"], **attributes),
            helper.make_node("MatMul", ["input", "wide"], ["logits"], name="fc"),
        ],
        {"scale": np.full(shape, 0.5, np.float32)},
    )
    model.graph.initializer.append(weight)
    layer = layers(model)["fc"]
    assert layer.precision == "weight-only"
    assert layer.weights is not None
    assert layer.weights.quantizer is not None
    assert (layer.weights.bits, layer.weights.size_bytes, layer.parameters) == (4, 8, 16)
    assert (layer.weights.quantizer.scales, layer.weights.quantizer.block) == (scales, block)
    assert (layer.weights.quantizer.low, layer.weights.quantizer.high) == (-4.0, 3.5)
    assert layer.size_bytes == 8 + 4 * scales


def test_packed_weights_of_four_bits() -> None:
    """An operator of onnxruntime alone: blocks of the inner dimension share a scale."""
    attributes = {"K": 32, "N": 4, "bits": 4, "block_size": 16}
    nodes = [
        helper.make_node(
            "MatMulNBits", ["input", "packed", "scales"], ["logits"], name="fc", domain="com.microsoft", **attributes
        )
    ]
    constants = {"packed": np.zeros((4, 2, 8), np.uint8), "scales": np.full(8, -0.5, np.float32)}
    layer = layers(graph(nodes, constants, size=32))["fc"]
    assert layer.precision == "weight-only"
    assert layer.weights is not None
    assert layer.weights.quantizer is not None
    scales = layer.weights.quantizer
    assert (layer.weights.bits, scales.scales, scales.block, scales.scale_min) == (4, 8, 16, 0.5)
    assert (scales.low, scales.high) == (-3.5, 4.0)


def test_an_activation_between_pairs_is_part_of_its_layer() -> None:
    """A ReLU between a product on integers and its quantizer is one as well; in front of a float it is float."""
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(0),
        "w": np.ones((4, 4), np.int8),
        "ws": np.float32(0.01),
    }

    def nodes(*, closed: bool) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", ["input", "s", "z"], ["image_q"]),
            helper.make_node("DequantizeLinear", ["image_q", "s", "z"], ["image_d"]),
            helper.make_node("DequantizeLinear", ["w", "ws"], ["w_d"]),
            helper.make_node("MatMul", ["image_d", "w_d"], ["product"], name="product"),
            helper.make_node("Relu", ["product"], ["relu" if closed else "logits"], name="relu"),
            *(
                [
                    helper.make_node("QuantizeLinear", ["relu", "s", "z"], ["relu_q"]),
                    helper.make_node("DequantizeLinear", ["relu_q", "s", "z"], ["logits"]),
                ]
                if closed
                else []
            ),
        ]

    assert layers(graph(nodes(closed=True), constants))["relu"].precision == "int8"
    assert layers(graph(nodes(closed=False), constants))["relu"].precision == "float32"


def test_biases_at_the_end_of_their_type_are_seen() -> None:
    """A bias of 32 bits that could not hold its value."""
    constants = {
        "weight": np.ones((4, 4), np.float32),
        "bias": np.array([0, 1, 2, np.iinfo(np.int32).max], np.int32),
        "scale": np.float32(1e-9),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["bias_d"]),
        helper.make_node("Gemm", ["input", "weight", "bias_d"], ["logits"], name="fc"),
    ]
    assert layers(graph(nodes, constants))["fc"].saturated_bias
    constants["bias"] = np.zeros(4, np.int32)
    assert not layers(graph(nodes, constants))["fc"].saturated_bias


def test_nodes_without_a_name_of_their_own_have_that_of_their_output() -> None:
    """Two nodes of one name are told apart as well."""
    nodes = [
        helper.make_node("Relu", ["input"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["logits"], name="same"),
    ]
    assert list(layers(graph(nodes, {}))) == ["a", "b", "logits"]
