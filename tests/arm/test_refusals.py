"""The checks above can fail: bundles that compute something else on ARM than they say are refused there."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.arm.lab import Question
from tests.unit.bundle.tampering import expected, rewrite

if TYPE_CHECKING:
    from pathlib import Path

    from tests.arm.lab import Lab

pytestmark = [pytest.mark.arm, pytest.mark.slow, pytest.mark.usefixtures("arm64_root")]

A72 = "qemu://cortex-a72"


def copied(bundle: Path, folder: Path) -> Path:
    """Return a copy of a bundle that a test may change."""
    return shutil.copytree(bundle, folder / "bundle")


def bend(bundle: Path) -> None:
    """Change the last int8 weights by a bit of middle weight; all checksums are made to fit."""
    file = bundle / "model" / "model.onnx"
    model = onnx.load(file)
    tensor = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT8 and each.dims][-1]
    weights = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(weights ^ np.int8(8), tensor.name))
    onnx.save(model, file)
    rewrite(bundle)


def test_other_weights(lab: Lab, tmp_path: Path) -> None:
    """A model that was changed, with checksums that fit, gives other outputs than samples/expected.json has."""
    name = "ResNet-20 int8 arm_exact"
    bundle = copied(lab.bundle(name), tmp_path)
    bend(bundle)
    answer = lab.verify(bundle, Question(f"{name}, other weights", "onnxruntime", A72))
    assert (answer.code, answer.found["verified"]) == (6, False)
    assert answer.same_bits < answer.outputs
    assert "outputs have the same bits, largest difference" in answer.found["error"]
    assert answer.found["error"].startswith(f"{A72}: aarch64, processor 0xd08")


def test_right_here_and_wrong_on_arm(lab: Lab, tmp_path: Path) -> None:
    """A file that rounds otherwise on ARM, in a bundle that promises every bit: this machine finds nothing."""
    name = "EfficientNet-Lite0 int8"
    bundle = copied(lab.bundle(name), tmp_path)
    expected(lambda content: content["exact"].update(onnxruntime=True))(bundle)
    here = lab.command("verify", str(bundle), "--json")
    assert (here.returncode, json.loads(here.stdout)["max_abs"]) == (0, 0.0)
    answer = lab.verify(bundle, Question(f"{name}, said to be exact", "onnxruntime", A72))
    assert (answer.code, answer.found["verified"], answer.found["exact"]) == (6, False, True)
    assert "allowed: 0" in answer.found["error"]
    assert answer.same_bits < answer.outputs
