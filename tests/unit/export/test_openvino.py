"""ONNX to OpenVINO: names, size, batch and reproducible bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.export.execution import openvino_outputs
from pipeline.export.openvino import export_openvino, read_openvino
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import read_onnx
from tests.feeds import fed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def test_the_ir_says_what_the_onnx_file_says(exported: Path, tmp_path: Path, samples: NDArray[np.float32]) -> None:
    """Outputs agree to rounding."""
    export_openvino(exported, tmp_path)
    found = openvino_outputs(tmp_path / "model.xml", fed(samples))
    np.testing.assert_allclose(found[0], onnx_outputs(exported, fed(samples))[0], atol=1e-5)


def test_names_of_inputs_outputs_and_layers_stay(exported: Path, tmp_path: Path) -> None:
    """What the ONNX file calls a layer, the IR calls it too."""
    inputs, outputs = export_openvino(exported, tmp_path)
    assert [(spec.name, spec.shape, spec.dtype) for spec in (*inputs, *outputs)] == [
        ("input", (1, 3, 8, 8), "float32"),
        ("output", (1, 4), "float32"),
    ]
    layers = {operation.get_friendly_name() for operation in read_openvino(tmp_path / "model.xml").get_ordered_ops()}
    assert {"stem", "depthwise", "act.Clip", "ReduceMean"} <= layers


@pytest.mark.parametrize("named", [True, False])
def test_the_same_file_gives_the_same_bytes(exported: Path, tmp_path: Path, *, named: bool) -> None:
    """The converter's running numbers and the name of what it read do not show, nor when nodes have no names."""
    model = read_onnx(exported)
    for node in model.graph.node:
        node.name = node.name if named else ""
    for source in ("one-name", "another-name"):
        (tmp_path / source).mkdir()
        file = tmp_path / source / f"{source}.onnx"
        file.write_bytes(model.SerializeToString())
        export_openvino(file, tmp_path / source)
    for name in ("model.xml", "model.bin"):
        assert (tmp_path / "one-name" / name).read_bytes() == (tmp_path / "another-name" / name).read_bytes()


def test_half_weights_take_half_the_bytes(exported: Path, tmp_path: Path, samples: NDArray[np.float32]) -> None:
    """And the outputs move by no more than FP16 allows."""
    export_openvino(exported, tmp_path / "full")
    export_openvino(exported, tmp_path / "half", half=True)
    full, half = ((tmp_path / name / "model.bin").stat().st_size for name in ("full", "half"))
    assert 0.45 < half / full < 0.55
    full_outputs, half_outputs = (
        openvino_outputs(tmp_path / name / "model.xml", fed(samples))[0] for name in ("full", "half")
    )
    assert 0 < np.abs(full_outputs - half_outputs).max() < 1e-2 * np.abs(full_outputs).max()


def test_a_dynamic_batch_stays_or_is_fixed(
    exported_dynamic: Path, tmp_path: Path, samples: NDArray[np.float32]
) -> None:
    """Outputs are the same either way, also when the last call has to be filled up."""
    free, _ = export_openvino(exported_dynamic, tmp_path / "free")
    fixed, _ = export_openvino(exported_dynamic, tmp_path / "fixed", batch=4)
    assert (free[0].shape, fixed[0].shape) == ((-1, 3, 8, 8), (4, 3, 8, 8))
    one, other = (openvino_outputs(tmp_path / name / "model.xml", fed(samples))[0] for name in ("free", "fixed"))
    assert one.shape == other.shape == (10, 4)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_unreadable_files_are_input_errors(tmp_path: Path) -> None:
    """Before and after conversion."""
    with pytest.raises(InputError, match="no such file"):
        read_openvino(tmp_path / "model.xml")
    (tmp_path / "model.xml").write_text("<net")
    with pytest.raises(InputError, match="not a readable OpenVINO model"):
        read_openvino(tmp_path / "model.xml")
    with pytest.raises(InputError, match="no such file"):
        export_openvino(tmp_path / "absent.onnx", tmp_path)


@pytest.mark.parametrize("target", ["model.bin", "nowhere"])
def test_weights_that_are_a_link_to_nothing(tmp_path: Path, target: str) -> None:
    """A link in a circle would end the process, and not the call alone."""
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "model.bin").symlink_to(target)
    with pytest.raises(InputError, match=r"model\.bin is a link to nothing; expected the weights of model\.xml"):
        read_openvino(tmp_path / "model.xml")
