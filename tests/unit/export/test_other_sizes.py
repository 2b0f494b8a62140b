"""Exports with open sizes: any length runs, and code that fixes one is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.core.artifact import TensorSpec
from pipeline.core.dataset import Arrays, Samples
from pipeline.core.errors import InputError, StageError
from pipeline.core.open_sizes import OpenSizes
from pipeline.core.task import Task
from pipeline.export.execution import openvino_outputs, torch_outputs
from pipeline.export.first_export import require_same_start
from pipeline.export.onnx import export_onnx
from pipeline.export.openvino import export_openvino
from pipeline.export.other_sizes import network_outputs, require_other_sizes
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.tasks.kinds import open_kit

if TYPE_CHECKING:
    from pathlib import Path

SERIES = (TensorSpec(name="series", shape=(1, 3, 12)),)
OPEN = OpenSizes({"length": {"series": 2}}, ({"length": 20},))


class Strided(nn.Module):
    """A label for every second step: the size of the output follows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv1d(3, 4, 3, stride=2, padding=1), nn.Conv1d(4, 2, 1)

    def forward(self, series: Tensor) -> Tensor:
        """Return logits [N, 2, T / 2]."""
        found: Tensor = self.head(self.body(series).relu())
        return found


class Flattened(nn.Module):
    """Takes one length alone, by its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 2)

    def forward(self, series: Tensor) -> Tensor:
        """Return logits [N, 2]."""
        found: Tensor = self.head(series.flatten(1))
        return found


class FirstHalf(Strided):
    """Divides by a number of steps that it writes out."""

    def forward(self, series: Tensor) -> Tensor:
        """Return logits [N, 2, T / 2], wrong for other lengths once exported."""
        steps = 12 if torch.compiler.is_exporting() else series.shape[2]
        return super().forward(series) / steps


def task_of(sizes: OpenSizes) -> Task:
    """Return a task whose samples have twelve steps."""
    series = np.random.default_rng(0).standard_normal((6, 3, 12)).astype(np.float32)
    samples = Samples({"series": series}, np.zeros(6, np.int64))
    return Task(open_kit("classification", classes=2), Arrays("s", samples, samples, samples, ("a", "b")), (), sizes)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_any_length_runs_and_outputs_follow(tmp_path: Path, dynamic_batch: bool) -> None:  # noqa: FBT001 - a case
    """ONNX and OpenVINO compute what the network does, at a length that was not traced."""
    model, inputs = Strided().eval(), SERIES
    _, outputs = export_onnx(model, tmp_path, inputs, ["logits"], dynamic_batch=dynamic_batch, open_sizes=OPEN)
    assert outputs[0].shape == (-1 if dynamic_batch else 1, 2, -1)
    given, specs = export_openvino(tmp_path / "model.onnx", tmp_path / "ir", batch=1)
    assert (given[0].shape, specs[0].shape) == ((1, 3, -1), (1, 2, -1))
    feeds = OPEN.resized(task_of(OPEN).feeds("train", slice(0, 2)), {"length": 31})
    (wanted,), (found,) = torch_outputs(model, feeds), onnx_outputs(tmp_path / "model.onnx", feeds)
    assert wanted.shape == (2, 2, 16)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(openvino_outputs(tmp_path / "ir" / "model.xml", feeds)[0], wanted, atol=1e-5)


def test_nothing_open_is_the_same_file(tmp_path: Path) -> None:
    """Recipes without `dynamic` have the bytes that they had."""
    for name, options in (("plain", {}), ("none", {"open_sizes": OpenSizes()})):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        given: dict[str, Any] = options
        export_onnx(Strided().eval(), tmp_path / name, SERIES, ["logits"], **given)
    assert (tmp_path / "plain" / "model.onnx").read_bytes() == (tmp_path / "none" / "model.onnx").read_bytes()


def test_a_size_that_weights_fix_is_named(tmp_path: Path) -> None:
    """The exporter would write it as the number that it was."""
    with pytest.raises(InputError, match=r"Flattened was exported only for length 12 \(series\), although its task"):
        export_onnx(Flattened().eval(), tmp_path, SERIES, ["logits"], open_sizes=OPEN)


def test_a_network_that_does_not_take_the_size_is_named(tmp_path: Path) -> None:
    """With what torch said."""
    task, file = task_of(OPEN), tmp_path / "model.onnx"
    export_onnx(Flattened().eval(), tmp_path, SERIES, ["logits"])
    with pytest.raises(InputError, match=r"tried at length 20: the network does not take them: .* list the sizes"):
        require_other_sizes(task, network_outputs(Flattened().eval()), lambda given: onnx_outputs(file, given), 1e-4)


def test_a_file_that_mixes_up_other_sizes_is_refused_at_the_start(tmp_path: Path) -> None:
    """It agrees at the samples' length, and at no other."""
    model = FirstHalf().eval()
    export_onnx(model, tmp_path, SERIES, ["logits"], open_sizes=OPEN)
    require_same_start_of(model, tmp_path, OpenSizes())
    with pytest.raises(Exception, match=r"tried at length 20.*its code fixes a size|Its code fixes a size"):
        require_same_start_of(model, tmp_path, OPEN)


def test_a_cause_that_is_known_is_told(tmp_path: Path) -> None:
    """Why the export is another network stands in the message, instead of a guess."""
    export_onnx(FirstHalf().eval(), tmp_path, SERIES, ["logits"])
    model = FirstHalf().eval()
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    for cause, told in (("images mix", "images mix"), ("", "a choice by values")):
        with pytest.raises(StageError, match=f"differ in the output logits.*: .*{told}"):
            require_same_start(model, tmp_path / "model.onnx", task_of(OpenSizes()), ["logits"], lambda _, c=cause: c)


def require_same_start_of(model: nn.Module, folder: Path, sizes: OpenSizes) -> None:
    """Compare a network with its export, with the mean over time as its logits."""
    task = task_of(sizes)
    task.kit.decode = lambda outputs: int(outputs["logits"].mean(1).argmax())  # type: ignore[method-assign]
    require_same_start(model, folder / "model.onnx", task, ["logits"])
