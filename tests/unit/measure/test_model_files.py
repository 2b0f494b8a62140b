"""The files that a network consists of, and those that it cannot consist of."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import InputError
from pipeline.measure.model_files import model_files

if TYPE_CHECKING:
    from pathlib import Path


def write_external(path: Path, *locations: str) -> Path:
    """Write a network whose weights claim to lie in these files."""
    weights = []
    for number, location in enumerate(locations):
        weight = numpy_helper.from_array(np.zeros(4, np.float32), f"weight{number}")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", location
        weights.append(weight)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "net", ports[:1], ports[1:], weights)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_single_file_is_its_own_hash(tmp_path: Path) -> None:
    """A network without further files has the digest and the size of its file."""
    path = write_external(tmp_path / "net.onnx")
    found = model_files(path, "onnxruntime")
    assert (found.main, dict(found.files)) == ("net.onnx", {"net.onnx": path})
    assert found.sha256 == {"net.onnx": found.digest}
    assert found.digest == sha256(path)
    assert found.size_bytes == path.stat().st_size


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_external_data_belong_to_the_network(tmp_path: Path, runtime: str) -> None:
    """Each file of weights is named once, after the network itself, and counts in digest and size."""
    path = write_external(tmp_path / "net.onnx", "a.bin", "b.bin", "a.bin")
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(bytes(16))
    found = model_files(path, runtime)  # type: ignore[arg-type]
    before = found.digest
    assert list(found.files) == ["net.onnx", "a.bin", "b.bin"]
    assert found.main == "net.onnx"
    assert found.size_bytes == path.stat().st_size + 32
    (tmp_path / "b.bin").write_bytes(bytes(15) + b"1")
    assert model_files(path, "onnxruntime").digest != before


def test_external_data_that_onnx_itself_wrote_are_found(tmp_path: Path) -> None:
    """What the library saves beside a file is what is pushed with it."""
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "weight")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Add", ["a", "weight"], ["b"])], "net", ports[:1], ports[1:], [weight])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert list(model_files(path, "onnxruntime").files) == ["net.onnx", "net.data"]


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/w.bin", "./w.bin", ".", "a/../../w.bin"])
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    """A file may name only files beside it: nothing else of this machine is read or sent."""
    path = write_external(tmp_path / "net.onnx", location)
    with pytest.raises(InputError, match=r"its weights are in .*; expected them in a file next to it"):
        model_files(path, "onnxruntime")


@pytest.mark.parametrize("location", ["", "..", "missing.bin", "a\nb"])
def test_weights_that_are_no_file_are_refused(tmp_path: Path, location: str) -> None:
    """A folder, nothing at all, or a file that is not there."""
    path = write_external(tmp_path / "net.onnx", location)
    with pytest.raises(InputError, match=r"(does not exist|is a folder); expected an exported network"):
        model_files(path, "onnxruntime")


def test_file_that_is_no_network_is_left_to_the_runtime(tmp_path: Path) -> None:
    """The runtime says why it cannot be read; here it is a file like any other."""
    path = tmp_path / "bad.onnx"
    path.write_text("no network")
    assert list(model_files(path, "onnxruntime").files) == ["bad.onnx"]


def test_openvino_model_has_its_weights_with_it(tmp_path: Path) -> None:
    """An .xml comes with its .bin, and other weights are another model."""
    path = tmp_path / "model.xml"
    path.write_text("graph")
    (tmp_path / "model.bin").write_text("weights")
    found = model_files(path, "openvino")
    before = found.digest
    assert list(found.files) == ["model.xml", "model.bin"]
    (tmp_path / "model.bin").write_text("changed")
    changed = model_files(path, "openvino")
    assert changed.digest != before
    assert changed.size_bytes == found.size_bytes


def test_names_do_not_count_in_the_digest(tmp_path: Path) -> None:
    """The same files under another name are the same network."""
    found = []
    for name in ("first", "second"):
        (tmp_path / f"{name}.xml").write_text("graph")
        (tmp_path / f"{name}.bin").write_text("weights")
        found.append(model_files(tmp_path / f"{name}.xml", "openvino"))
    assert found[0].digest == found[1].digest


@pytest.mark.parametrize(
    ("name", "runtime", "expected"),
    [
        ("none.onnx", "onnxruntime", r"an exported network \(\.onnx\)"),
        ("lonely.xml", "openvino", r"\.xml beside its \.bin"),
        ("nowhere", "torch", "the folder of a torch network"),
        (".", "onnxruntime", "an exported network"),
    ],
)
def test_missing_files_are_named_with_what_was_expected(tmp_path: Path, name: str, runtime: str, expected: str) -> None:
    """A file that is missing, an .xml without its .bin, a folder that is no torch network, a folder as a file."""
    (tmp_path / "lonely.xml").write_text("graph")
    with pytest.raises(InputError, match=f"(does not exist|is a folder); expected .*{expected}"):
        model_files(tmp_path / name, runtime)  # type: ignore[arg-type]
