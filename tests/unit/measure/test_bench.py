"""One command's worth of measuring: files against the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.measure.bench import bench, source_digest
from pipeline.measure.statistics import speedup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_one_file_is_measured_alone(write_onnx: Callable[..., Path]) -> None:
    """Without a second file there is no speedup."""
    path = write_onnx("net.onnx")
    measurement = bench([path], runtime="onnxruntime", threads=1, budget_s=0.1, seed=0)
    assert [subject.label for subject in measurement.subjects] == [str(path)]
    assert speedup(measurement, 0, "wall") is None


def test_same_file_twice_is_a_pair(write_onnx: Callable[..., Path]) -> None:
    """A file compared with itself shows the machine's noise."""
    path = write_onnx("net.onnx")
    measurement = bench([path, path], runtime="onnxruntime", threads=1, budget_s=0.1, seed=0, batch=2)
    assert speedup(measurement, 1, "wall") is not None
    assert measurement.subjects[0].digest == measurement.subjects[1].digest
    assert measurement.batch == 2


def test_digest_of_an_openvino_model_covers_its_weights(tmp_path: Path) -> None:
    """Other weights in the .bin are another model."""
    (tmp_path / "model.xml").write_text("graph")
    (tmp_path / "model.bin").write_text("weights")
    before = source_digest(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_text("others")
    assert source_digest(tmp_path / "model.xml") != before


@pytest.mark.parametrize("name", ["none.onnx", "model.xml"])
def test_missing_part_is_an_input_error(tmp_path: Path, name: str) -> None:
    """A file that does not exist, or an .xml without its .bin, is named."""
    (tmp_path / "model.xml").write_text("graph")
    with pytest.raises(InputError, match="does not exist; expected an exported network"):
        bench([tmp_path / name], runtime="openvino", threads=1, budget_s=0.1, seed=0)


def test_no_file_is_an_input_error() -> None:
    """There must be something to measure."""
    with pytest.raises(InputError, match="nothing to measure"):
        bench([], runtime="onnxruntime", threads=1, budget_s=0.1, seed=0)
