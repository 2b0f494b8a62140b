"""Multiplications, parameters and compressed size, the same in every form of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat
from onnxruntime.quantization import quantize_static as quantize_with_onnxruntime
from torch import Tensor, nn

from pipeline.analysis.cost import FileCost, gzip_size_bytes, onnx_cost, openvino_cost
from pipeline.export.onnx import export_onnx
from pipeline.export.openvino import export_openvino
from pipeline.onnx_graph.file import finish_model, read_onnx, write_onnx
from tests.defaults import quantize_static
from tests.feeds import image_input

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: 8x8 pixels: stem 3 -> 8, 3x3; depthwise 8, 3x3; head 8 -> 4. Each with a bias, the stem's from batch norm.
TINY = FileCost(
    macs=64 * 8 * 27 + 64 * 8 * 9 + 8 * 4,
    parameters=(8 * 27 + 8) + (8 * 9 + 8) + (8 * 4 + 4),
)
WEIGHTS = 8 * 27 + 8 * 9 + 8 * 4


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands out samples one by one."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self.rest = [{"input": samples[index : index + 1]} for index in range(len(samples))]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next sample."""
        return self.rest.pop() if self.rest else None


class Exotic(nn.Module):
    """Transposed, grouped and token-wise layers."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.tokens = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 4, 4, 4] to [N, 64, 5]."""
        result: Tensor = self.tokens(self.up(self.grouped(images)).flatten(2).transpose(1, 2))
        return result


def test_a_float_file_is_counted_by_hand(exported: Path, exported_dynamic: Path) -> None:
    """A dynamic batch counts one image."""
    assert onnx_cost(exported) == TINY
    assert onnx_cost(exported_dynamic) == TINY


def test_a_batch_counts_one_image(tiny: nn.Module, tmp_path: Path) -> None:
    """Multiplications are per image."""
    export_onnx(tiny, tmp_path, image_input((4, 3, 8, 8)))
    export_openvino(tmp_path / "model.onnx", tmp_path)
    assert onnx_cost(tmp_path / "model.onnx") == openvino_cost(tmp_path / "model.xml") == TINY


@pytest.mark.parametrize("half", [False, True])
def test_an_ir_counts_as_its_onnx_file(exported: Path, tmp_path: Path, *, half: bool) -> None:
    """With FP32 and with FP16 weights."""
    export_openvino(exported, tmp_path, half=half)
    assert openvino_cost(tmp_path / "model.xml") == TINY


def test_quantized_files_count_as_the_float_file(exported: Path, tmp_path: Path, samples: NDArray[np.float32]) -> None:
    """QDQ in ONNX and in OpenVINO; scales and zero points are no parameters."""
    quantized = quantize_static(read_onnx(exported), samples, scheme="u8s8")
    write_onnx(finish_model(quantized.model), tmp_path / "model.onnx")
    export_openvino(tmp_path / "model.onnx", tmp_path)
    assert onnx_cost(tmp_path / "model.onnx") == openvino_cost(tmp_path / "model.xml") == TINY
    for cost in (onnx_cost(tmp_path / "model.onnx"), openvino_cost(tmp_path / "model.xml")):
        assert (cost.int8_macs, cost.weight_bytes) == (TINY.macs, WEIGHTS)


def test_weights_are_counted_as_they_are_stored(exported: Path, tmp_path: Path) -> None:
    """Four bytes for a float, two for a half; none of them is multiplied in 8 bits."""
    for half, width in ((False, 4), (True, 2)):
        export_openvino(exported, tmp_path, half=half)
        cost = openvino_cost(tmp_path / "model.xml")
        assert (cost.int8_macs, cost.weight_bytes) == (0, width * WEIGHTS)
    assert onnx_cost(exported).weight_bytes == 4 * WEIGHTS


def test_quantized_operators_count_as_the_float_file(
    exported: Path, tmp_path: Path, samples: NDArray[np.float32]
) -> None:
    """QOperator format, with operators that only onnxruntime knows."""
    file = tmp_path / "qoperator.onnx"
    quantize_with_onnxruntime(exported, file, Reader(samples), quant_format=QuantFormat.QOperator, per_channel=True)
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= {node.op_type for node in read_onnx(file).graph.node}
    assert onnx_cost(file) == TINY


def test_transposed_grouped_and_tokenwise_layers(tmp_path: Path) -> None:
    """A transposed convolution multiplies each of its inputs; a matrix product has its bias in an addition."""
    export_onnx(Exotic().eval(), tmp_path, image_input((1, 4, 4, 4)))
    export_openvino(tmp_path / "model.onnx", tmp_path)
    expected = FileCost(
        macs=16 * 8 * 2 + 16 * 8 * 6 * 4 + 64 * 6 * 5,
        parameters=8 * 2 + (8 * 6 * 4 + 6) + (6 * 5 + 5),
    )
    assert onnx_cost(tmp_path / "model.onnx") == expected
    assert openvino_cost(tmp_path / "model.xml") == expected


def test_gzip_size_is_that_of_all_bytes_together(tmp_path: Path) -> None:
    """Independent of names and times; noise does not shrink."""
    noise = np.random.default_rng(0).bytes(5000)
    for name, content in (("a", noise), ("b", bytes(5000))):
        (tmp_path / name).write_bytes(content)
    both = gzip_size_bytes([tmp_path / "a", tmp_path / "b"])
    assert both == gzip_size_bytes([tmp_path / "a", tmp_path / "b"])
    assert 5000 < both < 5100
