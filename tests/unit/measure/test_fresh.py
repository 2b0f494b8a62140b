"""Measuring in a new process gives the same kind of result, and errors come back as errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.measure.fresh import measure_afresh
from pipeline.measure.harness import Subject

if TYPE_CHECKING:
    from pathlib import Path


def write_network(file: Path) -> None:
    """Write one 1x1 convolution as ONNX."""
    weight = numpy_helper.from_array(np.full((2, 1, 1, 1), 0.5, np.float32), "weight")
    shapes = {"image": [1, 1, 4, 4], "out": [1, 2, 4, 4]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    node = helper.make_node("Conv", ["image", "weight"], ["out"])
    graph = helper.make_graph([node], "network", ports[:1], ports[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)


def test_a_new_process_measures(tmp_path: Path) -> None:
    """The result has samples of every subject."""
    write_network(tmp_path / "a.onnx")
    subjects = [Subject(name, "onnxruntime", tmp_path / "a.onnx", name) for name in ("first", "second")]
    found = measure_afresh(subjects, threads=1, batch=1, budget_s=0.2, seed=0, progress=SilentProgress())
    assert [subject.label for subject in found.subjects] == ["first", "second"]
    assert all(len(subject.sessions) >= 4 for subject in found.subjects)


def test_errors_come_back(tmp_path: Path) -> None:
    """A file that the runtime cannot read is bad input here as well."""
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    subjects = [Subject("broken", "onnxruntime", tmp_path / "broken.onnx", "broken")]
    with pytest.raises(InputError, match="broken"):
        measure_afresh(subjects, threads=1, batch=1, budget_s=0.2, seed=0, progress=SilentProgress())
