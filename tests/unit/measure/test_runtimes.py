"""Files open in each runtime at the asked batch, and a file that cannot be used says why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper

from pipeline.core.errors import InputError
from pipeline.core.runtimes import shipping_runtimes
from pipeline.measure.runtimes import InputPort, RuntimeSettings, fixed_shape, open_session
from pipeline.measure.runtimes.torch import open_module

if TYPE_CHECKING:
    from collections.abc import Callable

FILE_RUNTIMES = sorted(shipping_runtimes())


@pytest.mark.parametrize("runtime", FILE_RUNTIMES)
def test_onnx_file_opens_at_the_asked_batch(runtime: Any, write_onnx: Callable[..., Path]) -> None:  # noqa: ANN401
    """A dynamic batch takes the asked number, and every option in force is told."""
    session = open_session(runtime, write_onnx("net.onnx"), threads=1, batch=2)
    (scores,) = session.run(np.ones((2, 3, 8, 8), np.float32))
    assert session.name == runtime
    assert session.inputs == (InputPort("image", (2, 3, 8, 8), "float32"),)
    assert session.version
    assert "1" in session.options.values()
    assert scores == pytest.approx([2.7, 2.7])


def test_runtimes_compute_the_same(write_onnx: Callable[..., Path]) -> None:
    """One file gives the same outputs in both runtimes, to float32's precision."""
    inputs = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    path = write_onnx("net.onnx")
    first, second = (
        open_session(name, path, threads=1, batch=1).run(inputs)[0] for name in ("onnxruntime", "openvino")
    )
    assert first == pytest.approx(second, abs=1e-5)


def test_openvino_reads_its_own_format(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    """An .xml beside its .bin opens as an ONNX file does, in float32 whatever the processor prefers."""
    model = openvino.convert_model(str(write_onnx("net.onnx")))
    openvino.save_model(model, str(tmp_path / "model.xml"), compress_to_fp16=False)
    session = open_session("openvino", tmp_path / "model.xml", threads=1, batch=1)
    assert session.run(np.ones((1, 3, 8, 8), np.float32))[0] == pytest.approx([2.7])
    assert session.options["INFERENCE_PRECISION_HINT"] == "f32"


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    """The message names the file and the runtime."""
    with pytest.raises(InputError, match=r"none\.onnx does not exist; expected a file that openvino reads"):
        open_session("openvino", tmp_path / "none.onnx", threads=1, batch=1)


def test_torch_opens_no_files(write_onnx: Callable[..., Path]) -> None:
    """The torch runtime takes a network, not a file."""
    with pytest.raises(InputError, match="torch reads no files"):
        open_session("torch", write_onnx("net.onnx"), threads=1, batch=1)


def test_damaged_onnx_file_is_an_input_error(tmp_path: Path) -> None:
    """ONNX Runtime's reason is passed on in one line."""
    path = tmp_path / "bad.onnx"
    path.write_text("no network")
    with pytest.raises(InputError, match=r"cannot read it: .*Protobuf parsing failed") as caught:
        open_session("onnxruntime", path, threads=1, batch=1)
    assert "\n" not in str(caught.value)


def test_damaged_openvino_file_is_an_input_error(tmp_path: Path) -> None:
    """OpenVINO's reason is passed on without the lines about its own source."""
    path = tmp_path / "bad.xml"
    path.write_text("no network")
    with pytest.raises(InputError, match="cannot read it: Unable to read the model"):
        open_session("openvino", path, threads=1, batch=1)


@pytest.mark.parametrize("runtime", FILE_RUNTIMES)
def test_fixed_batch_is_not_changed(runtime: Any, write_onnx: Callable[..., Path]) -> None:  # noqa: ANN401
    """A file exported for batch 1 is not measured at batch 2."""
    with pytest.raises(InputError, match="has a fixed batch of 1, asked for 2"):
        open_session(runtime, write_onnx("net.onnx", batch=1), threads=1, batch=2)


def write_pair(path: Path, kind: int = TensorProto.INT64) -> Path:
    """Write a network that adds whole numbers to an image, both of open sizes."""
    inputs = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", "length"]),
        helper.make_tensor_value_info("ids", kind, ["batch", "length"]),
    ]
    outputs = [helper.make_tensor_value_info("c", TensorProto.FLOAT, ["batch", "length"])]
    nodes = [
        helper.make_node("Cast", ["ids"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a", "cast"], ["c"]),
    ]
    graph = helper.make_graph(nodes, "two", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("runtime", FILE_RUNTIMES)
def test_two_inputs_of_two_types_run_at_the_given_shapes(runtime: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """A network may have several inputs, whole numbers among them, and open sizes that are given by name."""
    shapes = {"a": (2, 3), "ids": (2, 3)}
    session = open_session(runtime, write_pair(tmp_path / "two.onnx"), threads=1, batch=1, shapes=shapes)
    assert session.inputs == (InputPort("a", (2, 3), "float32"), InputPort("ids", (2, 3), "int64"))
    (sums,) = session.run(np.full((2, 3), 0.5, np.float32), np.full((2, 3), 2, np.int64))
    assert np.asarray(sums) == pytest.approx(np.full((2, 3), 2.5))


@pytest.mark.parametrize("runtime", FILE_RUNTIMES)
def test_open_size_without_a_shape_is_refused_with_the_option_that_gives_it(
    runtime: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    """The message says which input is open and what to write."""
    with pytest.raises(InputError, match=r"input a of shape .* give them: --shape a=1,1"):
        open_session(runtime, write_pair(tmp_path / "two.onnx"), threads=1, batch=1)


@pytest.mark.parametrize(("runtime", "name"), [("onnxruntime", r"tensor\(uint16\)"), ("openvino", "u16")])
def test_input_of_another_type_is_refused(runtime: Any, name: str, tmp_path: Path) -> None:  # noqa: ANN401
    """A type of which no inputs can be made is named, with those that are allowed."""
    path = write_pair(tmp_path / "two.onnx", TensorProto.UINT16)
    with pytest.raises(InputError, match=f"input ids is of type {name}, allowed: .*64"):
        open_session(runtime, path, threads=1, batch=1, shapes={"a": (1, 3), "ids": (1, 3)})


@pytest.mark.parametrize("declared", [["batch", 3, 8, 8], [None, 3, 8, 8], [-1, 3, 8, 8], [4, 3, 8, 8]])
def test_batch_is_filled_in(declared: list[int | str | None]) -> None:
    """A named, absent or negative batch becomes the asked one; an equal one stays."""
    assert fixed_shape(Path("net.onnx"), "image", declared, RuntimeSettings(threads=1, batch=4)) == (4, 3, 8, 8)


def test_single_number_has_no_batch() -> None:
    """An input without dimensions stays as it is."""
    assert fixed_shape(Path("net.onnx"), "scale", [], RuntimeSettings(threads=1, batch=4)) == ()


@pytest.mark.parametrize("declared", [["batch", 3, "height", 8], [1, 3, None, 8]])
def test_dynamic_size_is_refused(declared: list[int | str | None]) -> None:
    """Without a fixed size there is no latency to speak of."""
    with pytest.raises(InputError, match="open sizes beyond the batch"):
        fixed_shape(Path("net.onnx"), "image", declared, RuntimeSettings(threads=1, batch=1))


@pytest.mark.parametrize("given", [(1, 3, 9, 8), (1, 3, 8), (2, 3, 8, 8, 1)])
def test_given_shape_must_agree_with_what_is_fixed(given: tuple[int, ...]) -> None:
    """A fixed size cannot be overridden, nor the number of dimensions."""
    with pytest.raises(InputError, match="input image has shape"):
        fixed_shape(Path("net.onnx"), "image", ["batch", 3, 8, None], RuntimeSettings(1, 1, shapes={"image": given}))


def test_torch_session_copies_the_network_and_keeps_its_mode() -> None:
    """The given network stays in training mode, and later changes to it are not measured."""
    convolution = torch.nn.Conv2d(3, 2, 3)
    model = torch.nn.Sequential(convolution, torch.nn.Dropout(0.5)).train()
    session = open_module(model, (InputPort("image", (1, 3, 8, 8), "float32"),), threads=1)
    inputs = np.ones((1, 3, 8, 8), np.float32)
    before = session.run(inputs)[0].copy()
    torch.nn.init.zeros_(convolution.weight)
    assert model.training
    assert np.array_equal(session.run(inputs)[0], before)


def test_torch_session_restores_the_number_of_threads() -> None:
    """Training in the same process keeps its threads."""
    before = torch.get_num_threads()
    seen: list[int] = []

    class Spy(torch.nn.Module):
        def forward(self, image_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(torch.get_num_threads())
            return image_NCHW, image_NCHW

    ports = (InputPort("image", (1, 1, 1, 1), "float32"),)
    outputs = open_module(Spy(), ports, threads=before + 1).run(np.ones((1, 1, 1, 1), np.float32))
    assert len(outputs) == 2
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
