"""Networks of several inputs of any type and of several outputs: exported, simplified, run and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.training.inference import named_outputs
from pipeline.core.errors import InputError, StageError
from pipeline.core.feeds import take_samples
from pipeline.export.execution import openvino_outputs, torch_outputs
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.export.openvino import XML_NAME, export_openvino
from pipeline.export.parity import (
    FLOAT32_TOLERANCE,
    check_parity,
    locate_in_export,
    locate_in_onnx,
    locate_in_openvino,
    output_differences,
)
from pipeline.export.simplify import simplify_onnx
from pipeline.measure.batches import run_in_batches
from pipeline.onnx_graph.execution import onnx_outputs
from tests.feeds import fed, image_input
from tests.several import NETWORKS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_file_computes_what_the_network_does(kind: str, dynamic: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Exported at a batch of two or any, simplified, converted; run in batches that do not divide the samples."""
    case = NETWORKS[kind]
    model, feeds = case.model(), case.feeds(5)
    inputs, outputs = export_onnx(model, tmp_path, case.specs(2), dynamic_batch=dynamic)
    batch = -1 if dynamic else 2
    assert inputs == tuple(
        spec.model_copy(update={"layout": found.layout}) for spec, found in zip(case.specs(batch), inputs, strict=True)
    )
    assert tuple(spec.name for spec in outputs) == case.outputs
    file, simple = tmp_path / FILE_NAME, tmp_path / "simple" / FILE_NAME
    simplify_onnx(file, simple, feeds)
    ir = tmp_path / "ir" / XML_NAME
    export_openvino(simple, ir.parent)
    wanted = torch_outputs(model, feeds)
    made = (onnx_outputs(file, feeds), onnx_outputs(simple, feeds), openvino_outputs(ir, feeds))
    for found in made:
        assert output_differences(wanted, found).max_rel_to_scale < FLOAT32_TOLERANCE
    for runtime, path in (("onnxruntime", simple), ("openvino", ir)):
        calls = (take_samples(feeds, slice(start, start + 2)) for start in (0, 2, 4))
        parts = list(run_in_batches(path, calls, runtime=runtime, threads=1, batch=2))
        together = [np.concatenate(each) for each in zip(*parts, strict=True)]
        assert output_differences(wanted, together).max_rel_to_scale < FLOAT32_TOLERANCE
    assert locate_in_export(model, file, feeds, tolerance=FLOAT32_TOLERANCE) is None
    assert locate_in_onnx(file, simple, feeds, tolerance=FLOAT32_TOLERANCE) is None
    assert locate_in_openvino(simple, ir, feeds, tolerance=FLOAT32_TOLERANCE) is None


def test_each_output_is_compared_on_its_own_scale(tmp_path: Path) -> None:
    """A small second output that is wrong is seen beside a large first one, and its layer is named."""
    case = NETWORKS["image and numbers"]
    model, feeds = case.model(), case.feeds()
    with torch.no_grad():
        model.scores.weight.mul_(1000)  # type: ignore[union-attr, operator]
    export_onnx(model, tmp_path, case.specs(1))
    file = tmp_path / FILE_NAME
    with torch.no_grad():
        model.place.weight.mul_(1.01)  # type: ignore[union-attr, operator]
    with pytest.raises(StageError, match=r"place differ by .* The first layer that differs is place"):
        check_parity(
            torch_outputs(model, feeds),
            onnx_outputs(file, feeds),
            tolerance=FLOAT32_TOLERANCE,
            locate=lambda: locate_in_export(model, file, feeds, tolerance=FLOAT32_TOLERANCE),
            names=case.outputs,
        )


def test_inputs_are_known_by_name(tmp_path: Path) -> None:
    """What a file does not take, or takes beside what it is given, is refused by name."""
    case = NETWORKS["tokens"]
    export_onnx(case.model(), tmp_path, case.specs(1))
    file, feeds = tmp_path / FILE_NAME, case.feeds()
    with pytest.raises(InputError, match=r"model.onnx takes ids, mask; found ids$"):
        onnx_outputs(file, {"ids": feeds["ids"]})
    export_openvino(file, tmp_path)
    with pytest.raises(InputError, match=r"model.xml takes ids, mask; found words, mask$"):
        openvino_outputs(tmp_path / XML_NAME, {"words": feeds["ids"], "mask": feeds["mask"]})
    with pytest.raises(InputError, match=r"model.onnx takes ids, mask; found ids, mask, more$"):
        next(run_in_batches(file, [{**feeds, "more": feeds["mask"]}], runtime="onnxruntime", threads=1, batch=1))


class Whole(nn.Module):
    """Returns one number for all images."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, ...] to [N, ...] and a scalar."""
        return image.relu(), image.mean()


def test_outputs_without_a_batch_axis_are_refused(tmp_path: Path) -> None:
    """Their numbers cannot be told apart by sample."""
    expected = r"output 1 has the shape \[\] for a batch of {}; expected \[{}, ...\], a result for each sample"
    feeds = fed(np.ones((4, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match=expected.format(4, 4)):
        torch_outputs(Whole(), feeds)
    export_onnx(Whole().eval(), tmp_path, image_input((2, 3, 8, 8)))
    with pytest.raises(InputError, match=expected.format(2, 2)):
        onnx_outputs(tmp_path / FILE_NAME, feeds)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (torch.zeros(1), ["output"]),
        ((torch.zeros(1), {"scores": torch.zeros(1)}), ["output", "output_2"]),
        ({"boxes": {"near": torch.zeros(1)}, "kind": "x", "scores": torch.zeros(1)}, ["boxes.near", "scores"]),
    ],
)
def test_outputs_are_named_by_their_keys(result: object, names: list[str]) -> None:
    """Otherwise by their place; what is no tensor is left out."""
    assert list(named_outputs(result)) == names


def test_the_number_of_outputs_is_that_of_the_names(tmp_path: Path) -> None:
    """One name for two outputs is refused."""
    case = NETWORKS["map and count"]
    with pytest.raises(InputError, match="MapAndCount has 2 outputs, expected 1: logits"):
        export_onnx(case.model(), tmp_path, case.specs(1), ["logits"])


class Constant(nn.Module):
    """Gives zeros, whatever comes."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, 1, 4, 4] to twice as much and zeros [N, 3]."""
        return 2 * image, torch.zeros(image.shape[0], 3)


def test_an_output_that_nothing_computes_is_named(tmp_path: Path) -> None:
    """An ONNX graph has no such output."""
    with pytest.raises(InputError, match="Constant computes nothing for zeros: it is a constant"):
        export_onnx(Constant().eval(), tmp_path, image_input((2, 1, 4, 4)), ["twice", "zeros"])
