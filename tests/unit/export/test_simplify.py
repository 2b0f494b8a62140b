"""Simplification is believed only when the outputs stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import StageError
from pipeline.export import simplify
from pipeline.export.simplify import simplify_onnx
from pipeline.onnx_graph.file import onnx_specs, read_onnx, write_onnx
from tests.feeds import fed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def clumsy(tmp_path: Path) -> Path:
    """Return a file with a batch norm behind a convolution, an identity, and a sum of constants."""
    generator = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.uniform(0.5, 1.5, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["conv"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["conv", "scale", "bias", "mean", "var"], ["norm"], name="norm"),
        helper.make_node("Identity", ["norm"], ["same"], name="same"),
        helper.make_node("Add", ["one", "two"], ["three"], name="three"),
        helper.make_node("Add", ["same", "three"], ["out"], name="out"),
    ]
    weights = [tensor("weight", 4, 3, 3, 3), *(tensor(name, 4) for name in ("scale", "bias", "mean", "var"))]
    graph = helper.make_graph(
        nodes,
        "clumsy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 6, 6])],
        [*weights, tensor("one", 1), tensor("two", 1)],
    )
    file = tmp_path / "clumsy.onnx"
    write_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def broken(model: onnx.ModelProto, **_: object) -> tuple[onnx.ModelProto, bool]:
    """Do what a wrong simplifier would: change one weight of the convolution, and say that all is well."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weight = next(tensor for tensor in copy.graph.initializer if tensor.name == "depthwise.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    return copy, True


def test_constants_batch_norm_and_identities_are_folded(
    clumsy: Path, tmp_path: Path, samples: NDArray[np.float32]
) -> None:
    """Five nodes become two, and outputs stay."""
    done = simplify_onnx(clumsy, tmp_path / "model.onnx", fed(samples))
    assert (done.nodes_before, done.nodes_after) == (5, 2)
    assert done.parity.max_rel_to_scale < 1e-5
    assert onnx_specs(read_onnx(tmp_path / "model.onnx")) == onnx_specs(read_onnx(clumsy))


def test_the_same_file_gives_the_same_bytes(clumsy: Path, tmp_path: Path, samples: NDArray[np.float32]) -> None:
    """Twice, to two folders."""
    for folder in ("a", "b"):
        simplify_onnx(clumsy, tmp_path / folder / "model.onnx", fed(samples))
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()


def test_a_wrong_result_is_refused_and_the_layer_named(
    exported: Path, tmp_path: Path, samples: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One per cent on one layer's weights is found, and no file is left."""
    monkeypatch.setattr(simplify.onnxsim, "simplify", broken)
    with pytest.raises(StageError, match="The first layer that differs is depthwise "):
        simplify_onnx(exported, tmp_path / "model.onnx", fed(samples))
    assert not (tmp_path / "model.onnx").exists()


def test_a_failing_simplifier_is_a_failed_stage(
    exported: Path, tmp_path: Path, samples: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text is passed on in one line with what to do."""

    def fail(*_: object, **__: object) -> None:
        message = "first\nsecond"
        raise RuntimeError(message)

    monkeypatch.setattr(simplify.onnxsim, "simplify", fail)
    with pytest.raises(StageError, match=r"first\. Remove the simplify stage"):
        simplify_onnx(exported, tmp_path / "model.onnx", fed(samples))


def test_changed_inputs_are_refused(
    exported: Path,
    exported_dynamic: Path,
    tmp_path: Path,
    samples: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A simplifier that fixes a dynamic batch on the way is not believed."""
    monkeypatch.setattr(simplify.onnxsim, "simplify", lambda *_, **__: (read_onnx(exported), True))
    with pytest.raises(StageError, match="changed the inputs or outputs"):
        simplify_onnx(exported_dynamic, tmp_path / "model.onnx", fed(samples))
