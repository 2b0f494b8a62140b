"""Damaged files in every reader: refused with the file's name, never a traceback, and nothing is waited for."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.analysis.cost import onnx_cost
from pipeline.core.artifact import Artifact
from pipeline.core.errors import InputError, SecateurError
from pipeline.core.reading import read_bytes, read_object, read_value
from pipeline.export.execution import openvino_outputs
from pipeline.export.openvino import export_openvino, openvino_specs, read_openvino
from pipeline.inspect.file import InspectOptions, inspect_file
from pipeline.latency.gate_config import read_config
from pipeline.measure.devices.registry import list_devices
from pipeline.measure.model_files import model_files
from pipeline.network.stored import load_network
from pipeline.network.weights import read_weights
from pipeline.onnx_graph.file import onnx_specs, read_onnx
from pipeline.results.comparison import load_comparison
from pipeline.results.measurement import load_measurement
from pipeline.results.run_folder import read_run
from tests.feeds import fed
from tests.unit.run.test_evaluator import network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: What may stand in a text file in place of what should.
CONTENTS = {
    "nothing": b"",
    "half": b'{"schema_version": 1, "format": 1, "na',
    "no text": b"\xff\xfe\x00\x9f" * 40,
    "zeros": bytes(4096),
    "a list": b"[1, 2]",
    "a number": b"1",
    "a long number": b'{"format": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "another object": b'{"schema_version": 1, "format": 1}',
    "other types": b'{"schema_version": 1, "format": 1, "devices": 3, "rows": "x", "edits": {}, "arguments": []}',
    "half a character": b'{"schema_version": 1, "format": 1, "name": "\\ud800"}',
    "not a number": b'{"schema_version": 1, "format": 1, "margin": NaN}',
}
READERS: dict[str, Callable[[Path], object]] = {
    "run.json": read_run,
    "comparison.json": load_comparison,
    "measurement.json": load_measurement,
    "latency.toml": read_config,
    "artifact.json": lambda path: read_value(path, Artifact, "that of a network"),
    "devices.json": lambda _path: list_devices(),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return what gives the path of a file, which is also that of the registered devices."""

    def path(name: str) -> Path:
        monkeypatch.setenv("SECATEUR_DEVICES", str(tmp_path / name))
        return tmp_path / name

    return path


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_texts(place: Callable[[str], Path], name: str, content: str) -> None:
    """One message with the file's name."""
    path = place(name)
    path.write_bytes(CONTENTS[content])
    with pytest.raises(SecateurError, match=re.escape(name)) as caught:
        READERS[name](path)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket", "link to nothing", "link to itself"])
def test_what_is_no_file(place: Callable[[str], Path], name: str, kind: str) -> None:
    """It is never opened: a pipe would be waited for, a device read without end."""
    path = place(name)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "socket":
            path.symlink_to(f"/proc/{os.getpid()}/fd")
        case "link to nothing":
            path.symlink_to("nowhere")
        case _:
            path.symlink_to(path.name)
    if name == "devices.json" and kind.startswith("link"):
        assert list_devices() == {}
        return
    with pytest.raises(InputError, match=re.escape(name)):
        READERS[name](path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.bin"])
def test_weights_that_are_a_pipe(tmp_path: Path, name: str) -> None:
    """Which safetensors, torch and OpenVINO would wait for."""
    (tmp_path / "model.xml").write_text("<net/>")
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"{re.escape(name)} is a pipe or a device"):
        read_openvino(tmp_path / "model.xml") if name == "model.bin" else read_weights(tmp_path / name)


def test_readers_say_the_line(tmp_path: Path) -> None:
    """Of text that is no JSON, and of bytes that are no text."""
    path = tmp_path / "x.json"
    path.write_bytes(b'{\n"a": 1,\n}')
    with pytest.raises(InputError, match=r"x\.json:3 is damaged: no JSON: .*; expected a test"):
        read_object(path, "a test")
    path.write_bytes(b'{\n"a": "\xff"}')
    with pytest.raises(InputError, match=r"x\.json:2 is damaged: no text in UTF-8; expected a test"):
        read_object(path, "a test")
    with pytest.raises(InputError, match=r"nowhere does not exist; expected a test"):
        read_bytes(tmp_path / "nowhere", "a test")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"arguments": []},
        {"edits": None},
        {"edits": [1]},
        {"edits": [{}]},
        {"edits": [{"keep": 3}]},
        {"edits": [{"keep": {"0.weight": {"x": [0]}}}]},
        {"edits": [{"keep": {"0.weight": {"0": [99]}}}]},
        {"edits": [{"keep": {"0.weight": {"7": [0]}}}]},
        {"edits": [{"keep": {"nowhere": {"0": [0]}}}]},
        {"edits": [{"keep": {}, "factor": 3}]},
        {"edits": [{"keep": {}, "factor": {"nowhere": {"kind": "svd", "ranks": [1]}}}]},
        {"edits": [{"keep": {}, "factor": {"0": {"kind": "cp", "ranks": [1]}}}]},
        {"edits": [{"keep": {}, "factor": {"0": {"kind": "tucker", "ranks": [1]}}}]},
        {"edits": [{"keep": {}, "factor": {"0": {"ranks": [1]}}}]},
        {"edits": [{"keep": {}, "factor": {"0": {"kind": "svd", "ranks": [1]}}}]},
        {"edits": [{"keep": {}, "merge": ["0"]}]},
        {"edits": [{"keep": {}, "merge": ["nowhere"]}]},
        {"without_pretrained": 1},
    ],
    ids=str,
)
def test_plans_of_networks(tmp_path: Path, change: dict[str, Any]) -> None:
    """network.json with other values than it may have."""
    artifact = network(tmp_path, 8)
    file = artifact.folder / "network.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(SecateurError):
        load_network(artifact)


@pytest.mark.parametrize("content", CONTENTS)
def test_texts_of_networks(tmp_path: Path, content: str) -> None:
    """network.json that is none."""
    artifact = network(tmp_path, 8)
    (artifact.folder / "network.json").write_bytes(CONTENTS[content])
    with pytest.raises(InputError, match=r"network\.json"):
        load_network(artifact)


def messages(readers: Sequence[Callable[[], object]]) -> list[str]:
    """Return why readers refuse a file; what is no error of ours is raised."""
    told = []
    for reader in readers:
        try:
            reader()
        except SecateurError as error:
            told.append(str(error))
    return told


def small() -> onnx.ModelProto:
    """Return a convolution, a mean and a linear layer."""
    weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for s, n in (((4, 3, 3, 3), "w"), ((5, 4), "b"))]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "b"], ["y"], "fc", transB=1),
    ]
    ends = [helper.make_tensor_value_info(*each) for each in (("x", 1, [1, 3, 8, 8]), ("y", 1, [1, 5]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _size(place: int, value: int) -> Callable[[onnx.ModelProto], object]:
    return lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[place], "dim_value", value)


def _outside(name: str) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)

    return change


BROKEN: dict[str, Callable[[onnx.ModelProto], object]] = {
    **{f"size {place} is {value}": _size(place, value) for place in (0, 2) for value in (-5, 0, 2**31, 2**62)},
    "size 1 is left open": _size(1, -1),
    "output of 2^62": lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 2**62),
    "weights of 2^62": lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**62),
    "weights of -1": lambda m: m.graph.initializer[0].dims.__setitem__(0, -1),
    "pads of 2^62": lambda m: m.graph.node[0].attribute[0].ints.__setitem__(0, 2**62),
    "pads of -5": lambda m: m.graph.node[0].attribute[0].ints.__setitem__(0, -50),
    "no type": lambda m: m.graph.input[0].ClearField("type"),
    "unknown type": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 999),
    "text": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING),
    "no inputs": lambda m: m.graph.input.__delitem__(slice(None)),
    "no outputs": lambda m: m.graph.output.__delitem__(slice(None)),
    "no nodes": lambda m: m.graph.node.__delitem__(slice(None)),
    "an input of nothing": lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"),
    "a circle": lambda m: m.graph.node[0].input.__setitem__(0, "y"),
    "an unknown operator": lambda m: setattr(m.graph.node[0], "op_type", "Nothing"),
    "another domain": lambda m: setattr(m.graph.node[0], "domain", "nowhere.example"),
    "a later opset": lambda m: setattr(m.opset_import[0], "version", 9999),
    "too little data": lambda m: setattr(m.graph.initializer[0], "raw_data", b"abc"),
    "data of no type": lambda m: setattr(m.graph.initializer[0], "data_type", 999),
    "weights elsewhere": _outside("../../../etc/passwd"),
    "weights in a long name": _outside("x" * 5000),
    "weights in no name": _outside(""),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_onnx_files(tmp_path: Path, fault: str) -> None:
    """Whatever reads or runs it here refuses it in words, or takes it: nothing else is raised."""
    model = small()
    BROKEN[fault](model)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(model.SerializeToString())
    readers: list[Callable[[], object]] = [
        lambda: onnx_specs(read_onnx(path)),
        lambda: onnx_cost(path),
        lambda: inspect_file(path, InspectOptions(count=1, runs=1)),
        lambda: model_files(path, "onnxruntime"),
    ]
    told = messages(readers)
    assert told or fault == "no nodes"
    assert all(len(each.splitlines()) < 5 for each in told)


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_onnx_files_that_end_early(tmp_path: Path, kept: int) -> None:
    """A part of a file is no file."""
    path = tmp_path / "damaged.onnx"
    path.write_bytes(small().SerializeToString()[:kept])
    with pytest.raises(InputError, match=r"damaged\.onnx"):
        inspect_file(path, InspectOptions(count=1, runs=1))


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Return the text and the weights of an IR."""
    folder = tmp_path_factory.mktemp("ir")
    (folder / "small.onnx").write_bytes(small().SerializeToString())
    export_openvino(folder / "small.onnx", folder)
    return (folder / "model.xml").read_text(), (folder / "model.bin").read_bytes()


TEXTS: dict[str, Callable[[str], str | bytes]] = {
    "half": lambda t: t[: len(t) // 2],
    "nothing": lambda _t: "",
    "no text": lambda t: t.encode().replace(b"conv", b"\xff\xfe"),
    "another file": lambda _t: "<html></html>",
    "no layers": lambda t: re.sub(r"<layers>.*</layers>", "<layers></layers>", t, flags=re.DOTALL),
    "no edges": lambda t: re.sub(r"<edges>.*</edges>", "<edges></edges>", t, flags=re.DOTALL),
    "odd names": lambda t: t.replace('name="conv"', 'name="&#27;[31m&#10;"').replace('names="x"', 'names=""'),
    "the same name": lambda t: re.sub(r'<layer id="(\d+)" name="[^"]*"', r'<layer id="\1" name="a"', t),
    "the same number": lambda t: re.sub(r'<layer id="\d+"', '<layer id="1"', t),
    "a negative size": lambda t: t.replace('shape="1,3,8,8"', 'shape="1,3,-8,8"'),
    "a huge size": lambda t: t.replace('shape="1,3,8,8"', f'shape="1,3,{2**62},8"'),
    "weights beyond the file": lambda t: re.sub(r'offset="\d+"', f'offset="{2**40}"', t),
    "weights of a negative size": lambda t: re.sub(r'size="\d+"', 'size="-1"', t),
    "an unknown operation": lambda t: t.replace('type="Convolution"', 'type="Nothing"'),
    "an unknown version": lambda t: t.replace('version="opset1"', 'version="opset999"'),
    "an unknown type": lambda t: t.replace('element_type="f32"', 'element_type="f99"'),
    "deep": lambda t: t.replace("<layers>", "<a>" * 10_000 + "<layers>"),
    "an entity": lambda t: '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">]>' + t.replace('name="conv"', 'name="&a;"'),
}


@pytest.mark.parametrize("fault", TEXTS)
def test_irs(tmp_path: Path, ir: tuple[str, bytes], fault: str) -> None:
    """Odd names are taken, all else is refused in words."""
    path = tmp_path / "model.xml"
    text = TEXTS[fault](ir[0])
    assert text != ir[0]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.with_suffix(".bin").write_bytes(ir[1])
    readers: list[Callable[[], object]] = [
        lambda: openvino_specs(read_openvino(path)),
        lambda: openvino_outputs(path, fed(np.zeros((1, 3, 8, 8), np.float32))),
        lambda: inspect_file(path, InspectOptions(count=1, runs=1)),
    ]
    assert all(len(each.splitlines()) < 5 for each in messages(readers))


@pytest.mark.parametrize("content", CONTENTS)
def test_weights(tmp_path: Path, content: str) -> None:
    """Of a torch network."""
    artifact = network(tmp_path, 8)
    (artifact.folder / "weights.safetensors").write_bytes(CONTENTS[content])
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load_network(artifact)
    assert torch.is_grad_enabled()
