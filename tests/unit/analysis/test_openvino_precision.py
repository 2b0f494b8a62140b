"""What an IR asks for, beside the ONNX file that it was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.analysis.openvino_layers import read_layers
from pipeline.analysis.openvino_precision import openvino_precision_map
from pipeline.analysis.precision_map import onnx_precision_map
from pipeline.export.openvino import export_openvino
from pipeline.onnx_graph.file import read_onnx
from pipeline.onnx_graph.wiring import FileWiring

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.file_inspection import FileLayer


def layers(file: Path) -> dict[str, FileLayer]:
    """Return the layers of an IR by name."""
    return {layer.name: layer for layer in openvino_precision_map(read_layers(file)).layers}


def test_an_ir_tells_what_its_onnx_file_does(quantized: Path, quantized_ir: Path) -> None:
    """Names, weights, parameters and ranges; a bias belongs to its layer."""
    found = layers(quantized_ir)
    expected = {layer.name: layer for layer in onnx_precision_map(FileWiring(read_onnx(quantized))).layers}
    assert set(found) == set(expected)
    for name in ("stem", "depthwise", "fc"):
        one, other = found[name], expected[name]
        assert one.precision == other.precision == "int8"
        assert one.parameters == other.parameters
        assert one.weights is not None
        assert other.weights is not None
        assert one.weights.quantizer is not None
        assert other.weights.quantizer is not None
        assert (one.weights.dtype, one.weights.bits) == ("int8", 8)
        assert one.weights.quantizer.scales == other.weights.quantizer.scales
        assert one.weights.quantizer.scale_max == pytest.approx(other.weights.quantizer.scale_max, rel=1e-6)
    for name in ("stem", "depthwise", "Add"):
        one_range, other_range = found[name].makes, expected[name].makes
        assert one_range is not None
        assert other_range is not None
        assert (one_range.dtype, one_range.bits, one_range.scales) == ("uint8", 8, 1)
        assert one_range.zero_point_min == other_range.zero_point_min
        assert one_range.high == pytest.approx(other_range.high, rel=1e-6)
        assert one_range.low == pytest.approx(other_range.low, rel=1e-6)


def test_sums_of_products_are_counted(quantized_ir: Path) -> None:
    """For one image, and outputs as well."""
    found = layers(quantized_ir)
    assert (found["stem"].macs, found["stem"].outputs) == (64 * 8 * 27, 64 * 8)
    assert (found["depthwise"].macs, found["fc"].macs, found["Add"].macs) == (64 * 8 * 9, 32, None)


def test_links_join_the_same_layers(quantized: Path, quantized_ir: Path) -> None:
    """Through quantizers."""
    found = openvino_precision_map(read_layers(quantized_ir)).links
    expected = onnx_precision_map(FileWiring(read_onnx(quantized))).links
    assert {(link.maker, link.reader, link.quantizer is None) for link in found} == {
        (link.maker, link.reader, link.quantizer is None) for link in expected
    }


@pytest.mark.parametrize(("half", "dtype", "width"), [(False, "float32", 4), (True, "float16", 2)])
def test_float_weights_are_told_as_stored(
    exported: Path, tmp_path: Path, *, half: bool, dtype: str, width: int
) -> None:
    """Stored in half precision they are still computed in float32."""
    export_openvino(exported, tmp_path, half=half)
    stem = layers(tmp_path / "model.xml")["stem"]
    assert (stem.precision, stem.reads, stem.makes) == ("float32", (), None)
    assert stem.weights is not None
    assert (stem.weights.dtype, stem.weights.size_bytes) == (dtype, 8 * 27 * width)


def test_an_open_batch_becomes_one(exported_dynamic: Path, tmp_path: Path) -> None:
    """Counts are those of one image."""
    export_openvino(exported_dynamic, tmp_path)
    assert layers(tmp_path / "model.xml")["stem"].macs == 64 * 8 * 27
