"""Noise of each layer against the float file: by hand, in both forms, accumulated and alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.analysis.noise import compared, layer_sqnr, own_layer_sqnr
from pipeline.analysis.probes import Probe, ratio_db, watch
from pipeline.core.errors import InputError
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import finish_model, read_onnx, write_onnx
from pipeline.results.file_inspection import SQNR_CEILING_DB
from tests.defaults import quantize_static
from tests.feeds import fed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto


def chain(*, quantized: bool) -> ModelProto:
    """Return two matrix products [1, 3] -> [1, 3]; quantized: each input in steps of 0.5, weights exact."""
    constants = {
        "a": np.eye(3, dtype=np.float32),
        "b": np.full((3, 3), 0.25, np.float32),
        "step": np.float32(0.5),
        "zero": np.int8(0),
    }
    nodes = []
    names = {"input": "input", "first": "first"}
    for name in names:
        if quantized:
            nodes += [
                helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]),
                helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_d"]),
            ]
            names[name] = f"{name}_d"
    first = helper.make_node("MatMul", [names["input"], "a"], ["first"], name="one")
    second = helper.make_node("MatMul", [names["first"], "b"], ["logits"], name="two")
    nodes = [*nodes[:2], first, *nodes[2:], second]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("input", "logits")]
    used = {name: value for name, value in constants.items() if quantized or name in "ab"}
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in used.items()]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def chains(tmp_path: Path) -> tuple[Path, Path]:
    """Return the float and the quantized file of the two products."""
    files = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    for file, quantized in zip(files, (False, True), strict=True):
        write_onnx(chain(quantized=quantized), file)
    return files


def decibels(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the ratio as the textbook has it."""
    exact = reference.astype(np.float64)
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def test_ratios_are_those_of_the_formula(chains: tuple[Path, Path]) -> None:
    """The first layer's output behind its quantizer; alone, the second reads the float tensor through its own pair."""
    images = np.array([[0.3, 1.1, -2.2], [0.9, 0.1, 0.4]], np.float32)

    def steps(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return (np.round(values / 0.5) * 0.5).astype(np.float32)

    product = np.full((3, 3), 0.25, np.float32)
    found, alone = layer_sqnr(*chains, fed(images)), own_layer_sqnr(*chains, fed(images))
    assert found == {
        "one": pytest.approx(decibels(images, steps(images)), rel=1e-5),
        "two": pytest.approx(decibels(images @ product, steps(images) @ product), rel=1e-5),
    }
    assert alone["two"] == pytest.approx(decibels(images @ product, steps(images) @ product), rel=1e-5)


def test_alone_is_not_what_came_before(exported: Path, quantized: Path, samples: NDArray[np.float32]) -> None:
    """The first layer's noise is its own; later ones carry on what was added before them."""
    found, alone = (
        layer_sqnr(exported, quantized, fed(samples)),
        own_layer_sqnr(exported, quantized, fed(samples)),
    )
    assert list(found) == list(alone) == ["stem", "depthwise", "Add", "ReduceMean", "fc"]
    assert found["stem"] == alone["stem"]
    assert found["depthwise"] < alone["depthwise"]
    assert all(20 < ratio < 60 for ratio in (*found.values(), *alone.values()))


def test_the_last_layer_has_the_noise_of_the_outputs(
    exported: Path, quantized: Path, samples: NDArray[np.float32]
) -> None:
    """As the outputs of both files have it."""
    (reference,), (outputs,) = (onnx_outputs(file, fed(samples)) for file in (exported, quantized))
    assert layer_sqnr(exported, quantized, fed(samples))["fc"] == pytest.approx(decibels(reference, outputs), abs=1e-3)


def test_an_ir_has_the_noise_of_its_onnx_file(
    exported: Path, quantized: Path, quantized_ir: Path, samples: NDArray[np.float32]
) -> None:
    """To the rounding of another kernel. Alone it is not told."""
    found, expected = (
        layer_sqnr(exported, quantized_ir, fed(samples)),
        layer_sqnr(exported, quantized, fed(samples)),
    )
    assert set(found) == set(expected)
    assert all(found[name] == pytest.approx(expected[name], abs=0.5) for name in expected)
    assert own_layer_sqnr(exported, quantized_ir, fed(samples)) == {}


def test_equal_files_are_at_the_ceiling(exported: Path, samples: NDArray[np.float32]) -> None:
    """A float layer adds nothing, and a file has no noise against itself."""
    assert set(layer_sqnr(exported, exported, fed(samples)).values()) == {SQNR_CEILING_DB}


def test_a_layer_in_float_adds_nothing(exported: Path, samples: NDArray[np.float32], tmp_path: Path) -> None:
    """It carries on the noise before it, and of its own has only that of the pair behind it, if there is one."""
    file = tmp_path / "kept.onnx"
    model = quantize_static(read_onnx(exported), samples, scheme="u8s8", keep=["fc", "ReduceMean"]).model
    write_onnx(finish_model(model), file)
    assert own_layer_sqnr(exported, file, fed(samples))["fc"] == SQNR_CEILING_DB
    assert layer_sqnr(exported, file, fed(samples))["fc"] < 60


def test_a_dynamic_batch_is_run_one_by_one(
    exported_dynamic: Path, samples: NDArray[np.float32], tmp_path: Path
) -> None:
    """All samples count."""
    file = tmp_path / "int8.onnx"
    write_onnx(finish_model(quantize_static(read_onnx(exported_dynamic), samples, scheme="u8s8").model), file)
    assert set(layer_sqnr(exported_dynamic, file, fed(samples))) == {
        "stem",
        "depthwise",
        "Add",
        "ReduceMean",
        "fc",
    }


def test_silent_layers_are_left_out(chains: tuple[Path, Path]) -> None:
    """There is no ratio to a signal of zero."""
    assert layer_sqnr(*chains, fed(np.zeros((1, 3), np.float32))) == {}
    assert ratio_db(0.0, 1.0) is None
    assert ratio_db(1.0, 0.0) == SQNR_CEILING_DB
    assert ratio_db(1.0, 10.0) == pytest.approx(-10)


def test_files_that_have_nothing_in_common_are_refused(
    exported: Path, quantized: Path, quantized_ir: Path, chains: tuple[Path, Path], tmp_path: Path
) -> None:
    """Other inputs, other tensors, samples that do not fit: each is named."""
    images = np.zeros((1, 3), np.float32)
    renamed = read_onnx(chains[0])
    renamed.graph.node[0].output[0] = renamed.graph.node[1].input[0] = "other"
    renamed.graph.node[1].output[0] = renamed.graph.output[0].name = "scores"
    write_onnx(renamed, tmp_path / "renamed.onnx")
    other = onnx.ModelProto()
    other.CopyFrom(read_onnx(chains[0]))
    other.graph.input[0].name = other.graph.node[0].input[0] = "tokens"
    write_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="no tensor of the same name"):
        layer_sqnr(tmp_path / "renamed.onnx", chains[1], fed(images))
    for file in (quantized, quantized_ir):
        with pytest.raises(InputError, match=r"takes \['tokens'\].*takes \['input'\]: not the same"):
            layer_sqnr(tmp_path / "other.onnx", file, fed(np.zeros((1, 3, 8, 8), np.float32)))
        with pytest.raises(InputError, match=r"takes input \[1, 3, 8, 8\]; input of shape \[3\] do not fit"):
            layer_sqnr(exported, file, fed(images))
    with pytest.raises(InputError, match="no tensor of the same name"):
        layer_sqnr(_unlike(tmp_path), quantized_ir, fed(np.zeros((1, 3, 8, 8), np.float32)))


def _unlike(folder: Path) -> Path:
    """Write a file that takes the same image and has no other name in common."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("input", "scores")]
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["scores"])], "g", ports[:1], ports[1:])
    write_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "u.onnx")
    return folder / "u.onnx"


def test_outputs_beyond_the_range_are_counted(exported: Path, quantized: Path, samples: NDArray[np.float32]) -> None:
    """Images ten times as bright leave the ranges that were calibrated; the calibration images themselves do not."""
    within, beyond = (
        compared(exported, quantized, fed(samples)),
        compared(exported, quantized, fed(10 * samples)),
    )
    assert (within["stem"].clipped or 0.0) < 0.01
    assert (beyond["depthwise"].clipped or 0.0) > 0.02
    assert within["fc"].clipped is None


def test_channels_that_never_change_are_found() -> None:
    """Over all calls; one value alone says nothing. Constant is as dead as zero."""
    probe = Probe("conv", "raw", "raw", "raw", axis=1)
    calls = [np.array([[[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]]), np.array([[[0.0, 0.0], [1.0, 1.0], [2.0, 3.0]]])]
    floats = [np.array([[[0.0, 0.0], [1.0, 2.0], [2.0, 2.0]]])] * 2
    (seen,) = watch([probe], [{"raw": call} for call in calls], [{"raw": call} for call in floats]).values()
    dead, reference = seen.dead("found"), seen.dead("reference")
    assert dead is not None
    assert reference is not None
    assert dead.tolist() == [True, True, False]
    assert reference.tolist() == [True, False, True]
    (single,) = watch([probe], [{"raw": np.zeros((1, 3, 1))}]).values()
    assert single.dead("found") is None
