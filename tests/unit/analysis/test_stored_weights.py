"""Zeros are found in every kind of file, where they were put, and every way of quantizing keeps them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.analysis.stored_weights import onnx_weights, openvino_weights
from pipeline.compress.quantization.engines import engine as interface
from pipeline.compress.quantization.engines.registry import ENGINES
from pipeline.core.sparsity import Sparsity, lost_zeros, zeros_among
from pipeline.export.onnx import export_onnx
from pipeline.export.openvino import export_openvino
from pipeline.export.simplify import simplify_onnx
from pipeline.onnx_graph.file import finish_model, read_onnx, write_onnx
from pipeline.precision.variant import Variant, build, other_precision
from tests.defaults import asked
from tests.feeds import fed, image_input

SAMPLES = np.random.default_rng(0).standard_normal((8, 4, 6, 6), dtype=np.float32)
LAYERS = ("conv", "depthwise", "up", "fc", "matrix")


class Sparse(nn.Module):
    """Convolutions of three kinds, one with a norm to fold, linear layers with and without bias, perhaps an LSTM."""

    def __init__(self, *, recurrent: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.up = nn.ConvTranspose2d(16, 32, 2)
        self.fc = nn.Linear(32, 40)
        self.lstm = nn.LSTM(40, 40, batch_first=True) if recurrent else None
        self.matrix = nn.Linear(40, 5, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, 1, 5]."""
        hidden = self.up(self.depthwise(self.norm(self.conv(images)).relu()).relu()).relu()
        tokens = self.fc(hidden.mean((2, 3))).relu()[:, None]
        result: Tensor = self.matrix(self.lstm(tokens)[0] if self.lstm else tokens)
        return result


@cache
def network(*, recurrent: bool) -> nn.Module:
    """Return it with two thirds of the weights of each layer at zero; its statistics are not those of a new norm."""
    torch.manual_seed(0)
    model = Sparse(recurrent=recurrent)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.masked_fill_(torch.rand(parameter.shape) < 2 / 3, 0)
            elif not name.startswith("norm"):
                parameter.uniform_(-0.1, 0.1)
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


@cache
def exported(*, recurrent: bool) -> bytes:
    """Return its float file."""
    with TemporaryDirectory() as folder:
        export_onnx(network(recurrent=recurrent), Path(folder), image_input((1, 4, 6, 6)))
        return (Path(folder) / "model.onnx").read_bytes()


def zeros_in(file: Path) -> dict[str, Any]:
    """Return where the weights of a file are zero."""
    return zeros_among((openvino_weights if file.suffix == ".xml" else onnx_weights)(file))


def float_file(folder: Path, *, recurrent: bool = False) -> Path:
    """Write the float file."""
    (folder / "model.onnx").write_bytes(exported(recurrent=recurrent))
    return folder / "model.onnx"


def test_a_float_file_has_the_zeros_of_the_network(tmp_path: Path) -> None:
    """Folding a norm moves none; a matrix without bias is transposed; an LSTM has two, gates in other order."""
    found, model = zeros_in(float_file(tmp_path, recurrent=True)), network(recurrent=True)
    for name in LAYERS:
        zeros = (model.get_parameter(f"{name}.weight") == 0).numpy()
        got = found[{"matrix": "matrix.MatMul"}.get(name, name)]
        assert np.array_equal(got, zeros.T if name == "matrix" else zeros), name
    lstm = [model.get_parameter(f"lstm.weight_{kind}_l0") for kind in ("ih", "hh")]
    assert [int(found[name].sum()) for name in ("lstm.LSTM", "lstm.LSTM.2")] == [int((w == 0).sum()) for w in lstm]
    assert len(found) == len(LAYERS) + 2


def test_simplifying_and_an_ir_keep_them(tmp_path: Path) -> None:
    """Names and layouts differ in the IR, numbers do not; in FP16 too."""
    file = float_file(tmp_path, recurrent=True)
    before = zeros_in(file)
    simplify_onnx(file, tmp_path / "simple.onnx", fed(SAMPLES[:2]))
    assert lost_zeros(before, zeros_in(tmp_path / "simple.onnx")) == {}
    for half in (False, True):
        folder = tmp_path / str(half)
        folder.mkdir()
        export_openvino(file, folder, half=half)
        found = zeros_in(folder / "model.xml")
        assert Sparsity.of(found).zeros == Sparsity.of(before).zeros
        assert Sparsity.of(found).weights == Sparsity.of(before).weights
        assert lost_zeros(before, found) == {}


#: Scheme, scales, recovery, and the engines that are asked.
VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, tuple(ENGINES)),
    "reduced": ({"scheme": "u8s8-reduced"}, tuple(ENGINES)),
    "s8s8": ({"scheme": "s8s8"}, ("onnxruntime",)),
    "u8u8": ({"scheme": "u8u8"}, ("onnxruntime",)),
    "u8u8 of one scale": ({"scheme": "u8u8", "per_channel": False}, ("onnxruntime",)),
    "one scale": ({"per_channel": False}, tuple(ENGINES)),
    "adaround": ({"recovery": ("adaround", "bias")}, ("onnxruntime",)),
    "equalize": ({"recovery": ("equalize", "bias")}, ("onnxruntime",)),
}


@pytest.mark.parametrize(
    ("variant", "engine"), [(name, engine) for name, (_, engines) in VARIANTS.items() for engine in engines]
)
def test_every_int8_file_keeps_them(tmp_path: Path, engine: Any, variant: str) -> None:  # noqa: ANN401 - a name
    """At the places where they were; so does the IR that is made of it. Rounding adds some."""
    settings = {"scheme": "u8s8", "per_channel": True, "recovery": (), **VARIANTS[variant][0]}
    if command := interface.missing_engine(ENGINES[engine]()):
        pytest.skip(f"{engine} is not installed: {command}")
    request = asked(settings["scheme"], per_channel=settings["per_channel"], calibration="min-max")
    before = zeros_in(float_file(tmp_path))
    model = read_onnx(tmp_path / "model.onnx")
    made = build(model, fed(SAMPLES), Variant(engine, request, settings["recovery"])).model
    write_onnx(finish_model(made), tmp_path / "int8.onnx")
    found = zeros_in(tmp_path / "int8.onnx")
    assert len(found) == len(before)
    assert lost_zeros(before, found) == {}
    integers = {np.dtype(np.int8), np.dtype(np.uint8)}
    stored = [onnx.numpy_helper.to_array(each) for each in made.graph.initializer]
    assert sum(each.dtype in integers and each.ndim > 1 for each in stored) >= 4
    (tmp_path / "ir").mkdir()
    export_openvino(tmp_path / "int8.onnx", tmp_path / "ir", half=False)
    assert lost_zeros(found, zeros_in(tmp_path / "ir" / "model.xml")) == {}


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-weights", "int4-weights", "fp16", "fp16-weights"])
def test_other_precisions_keep_them(tmp_path: Path, precision: Any) -> None:  # noqa: ANN401 - a name
    """Weights in blocks and products that quantize as they run have operators and layouts of their own."""
    before = zeros_in(float_file(tmp_path))
    write_onnx(finish_model(other_precision(read_onnx(tmp_path / "model.onnx"), precision)), tmp_path / "other.onnx")
    found = zeros_in(tmp_path / "other.onnx")
    assert sorted(each.size for each in found.values()) == sorted(each.size for each in before.values())
    assert lost_zeros(before, found) == {}


def test_a_filled_zero_is_told_by_name() -> None:
    """By place where the layout is the same, else by number; other sizes are other layers."""
    zeros = np.array([[True, False, True], [False, False, True]])
    before = {"a": zeros, "b": zeros, "c": np.ones(4, bool)}
    moved = np.array([[False, True, True], [False, False, True]])
    assert lost_zeros(before, {"a": moved, "b": zeros, "c": np.ones(2, bool)}) == {"a": 1}
    assert lost_zeros(before, {"x": zeros.T, "y": np.zeros((3, 2), bool), "c": np.ones(4, bool)}) == {"y": 3}
    assert lost_zeros(before, {"a": moved | zeros, "x": zeros}) == {}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_more_zeros_are_never_a_loss(before: list[bool], data: st.DataObject) -> None:
    """Whatever is added."""
    more = data.draw(st.lists(st.booleans(), min_size=len(before), max_size=len(before)))
    given_, made = np.array(before), np.array(before) | np.array(more)
    assert lost_zeros({"a": given_}, {"a": made}) == {}
    assert Sparsity.of({"a": made}).zeros >= Sparsity.of({"a": given_}).zeros
    lost = int((made & ~given_).sum())
    assert lost_zeros({"a": made}, {"a": given_}) == ({"a": lost} if lost else {})
