"""Parity: what is compared, what fails in any case, and which layer is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from pipeline.core.errors import StageError
from pipeline.export.execution import openvino_outputs, torch_outputs
from pipeline.export.onnx import export_onnx
from pipeline.export.openvino import export_openvino
from pipeline.export.parity import (
    Difference,
    check_parity,
    first_difference,
    locate_in_export,
    locate_in_onnx,
    locate_in_openvino,
    module_outputs,
    output_differences,
)
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import read_onnx, write_onnx
from tests.feeds import fed, image_input

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TOLERANCE = 1e-4
LOGITS = np.array([[1.0, 2.0], [4.0, -3.0]], dtype=np.float32)


def nothing() -> None:
    """Find no layer."""


class Shared(nn.Module):
    """A convolution that is called twice, with an activation that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 2, H, W] to the same shape."""
        result: Tensor = self.conv(self.act(self.conv(images)))
        return result


@pytest.fixture
def perturbed(exported: Path, tmp_path: Path) -> Path:
    """Return the file with one number of the depthwise layer's weights changed."""
    model = read_onnx(exported)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "depthwise.weight")
    changed = numpy_helper.to_array(weight).copy()
    changed[3, 0, 1, 1] += 0.05
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    file = tmp_path / "perturbed.onnx"
    write_onnx(model, file)
    return file


def test_differences_are_relative_to_the_largest_reference_value() -> None:
    """An error of 0.02 on a scale of 4 is half a per cent."""
    parity = output_differences([LOGITS], [LOGITS + np.float32(0.02)])
    assert parity.max_abs == pytest.approx(0.02, rel=1e-4)
    assert parity.max_rel_to_scale == pytest.approx(0.005, rel=1e-4)
    assert (parity.argmax_agreement, parity.images) == (1.0, 2)


def test_agreement_counts_images_whose_class_changed() -> None:
    """One of two images flips."""
    assert output_differences([LOGITS], [LOGITS[:, ::-1] * [[1], [-1]]]).argmax_agreement == 0.5
    assert output_differences([LOGITS[:, :1]], [LOGITS[:, :1]]).argmax_agreement is None


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (LOGITS * np.float32("nan"), "not finite"),
        (np.zeros_like(LOGITS), "the same for all 2 images"),
        (LOGITS[:1], "shapes"),
    ],
)
def test_dead_outputs_fail_whatever_the_tolerance(outputs: NDArray[np.float32], message: str) -> None:
    """Also for quantized files, whose difference is never judged."""
    with pytest.raises(StageError, match=message):
        output_differences([LOGITS], [outputs])


def test_outputs_may_be_constant_where_the_reference_is() -> None:
    """A network that says the same of all images may be exported."""
    same = np.ones((3, 2), dtype=np.float32)
    assert output_differences([same], [same]).max_abs == 0


def test_a_failure_without_a_differing_layer_says_so() -> None:
    """The difference then lies in what only one of the files has."""
    with pytest.raises(StageError, match="Every layer that both have agrees"):
        check_parity([LOGITS], [LOGITS + 1], tolerance=TOLERANCE, locate=nothing)
    assert check_parity([LOGITS], [LOGITS], tolerance=TOLERANCE, locate=nothing).max_abs == 0


def test_the_first_difference_goes_by_the_order_of_the_reference() -> None:
    """Layers that only one side has, or that have another shape, are passed over."""
    reference = dict.fromkeys(("only", "shape", "first", "second"), LOGITS)
    found = {"second": LOGITS * 2, "first": LOGITS * 3, "shape": LOGITS[:1]}
    assert first_difference(reference, found, tolerance=TOLERANCE) == Difference("first", 2.0)
    assert first_difference(reference, {"first": LOGITS}, tolerance=TOLERANCE) is None


def test_a_changed_weight_is_traced_to_its_layer_between_onnx_files(
    exported: Path, perturbed: Path, samples: NDArray[np.float32]
) -> None:
    """The layers behind it differ too; the first one is named."""
    outputs = [onnx_outputs(file, fed(samples)) for file in (exported, perturbed)]
    with pytest.raises(StageError, match=r"The first layer that differs is depthwise \("):
        check_parity(
            *outputs,
            tolerance=TOLERANCE,
            locate=lambda: locate_in_onnx(exported, perturbed, fed(samples), tolerance=TOLERANCE),
        )
    assert locate_in_onnx(exported, exported, fed(samples), tolerance=TOLERANCE) is None


def test_a_changed_weight_is_traced_to_its_layer_in_openvino(
    exported: Path, perturbed: Path, tmp_path: Path, samples: NDArray[np.float32]
) -> None:
    """An IR of other weights than the ONNX file's."""
    export_openvino(perturbed, tmp_path / "wrong")
    export_openvino(exported, tmp_path / "right")
    wrong, right = (tmp_path / name / "model.xml" for name in ("wrong", "right"))
    with pytest.raises(StageError, match=r"The first layer that differs is depthwise \("):
        check_parity(
            onnx_outputs(exported, fed(samples)),
            openvino_outputs(wrong, fed(samples)),
            tolerance=TOLERANCE,
            locate=lambda: locate_in_openvino(exported, wrong, fed(samples), tolerance=TOLERANCE),
        )
    assert locate_in_openvino(exported, right, fed(samples), tolerance=TOLERANCE) is None


def test_a_changed_weight_is_traced_to_its_module_in_torch(
    tiny: nn.Module, exported: Path, perturbed: Path, samples: NDArray[np.float32]
) -> None:
    """Batch norm, folded in the file, belongs to the convolution in front of it."""
    with pytest.raises(StageError, match=r"The first layer that differs is depthwise \("):
        check_parity(
            torch_outputs(tiny, fed(samples)),
            onnx_outputs(perturbed, fed(samples)),
            tolerance=TOLERANCE,
            locate=lambda: locate_in_export(tiny, perturbed, fed(samples), tolerance=TOLERANCE),
        )
    assert locate_in_export(tiny, exported, fed(samples), tolerance=TOLERANCE) is None


def test_modules_that_are_called_twice_and_work_in_place_are_told_apart(
    tmp_path: Path, samples: NDArray[np.float32]
) -> None:
    """Each call has its node, and keeps its value from before the activation."""
    torch.manual_seed(0)
    model = Shared().eval()
    export_onnx(model, tmp_path, image_input((1, 2, 8, 8)))
    images = samples[:1, :2]
    assert list(module_outputs(model, fed(images))) == ["conv", "conv_2"]
    assert locate_in_export(model, tmp_path / "model.onnx", fed(images), tolerance=TOLERANCE) is None
