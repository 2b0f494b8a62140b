"""Torch to ONNX: names, reproducible bytes, dynamic batch, and what happens to networks that cannot be traced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.export import onnx as onnx_export
from pipeline.export.execution import torch_outputs
from pipeline.export.onnx import export_onnx
from pipeline.network.definition import build_network
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import is_quantized, onnx_specs, read_onnx
from tests.feeds import fed, image_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ELSEWHERE = """
import sys, runpy, torch, pathlib
sys.path.insert(0, sys.argv[1])
Tiny = runpy.run_path(sys.argv[2])["Tiny"]
torch.manual_seed(0)
from pipeline.export.onnx import export_onnx
from tests.feeds import image_input
export_onnx(Tiny().eval(), pathlib.Path(sys.argv[3]), image_input((1, 3, 8, 8)))
"""


class Branching(nn.Module):
    """Not traceable: the way depends on a value."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the images or their negative."""
        return images if images.sum() > 0 else -images


class Twice(nn.Module):
    """One convolution called two times, and a buffer that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.register_buffer("offset", torch.ones(2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 2, H, W] to the same shape."""
        result: Tensor = self.conv(self.conv(images) + self.offset)
        return result


class Bounded(nn.Module):
    """A convolution and one function of its output."""

    def __init__(self, bound: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.bound = nn.Conv2d(3, 2, 3), bound

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, 2]."""
        return self.bound(self.conv(images)).mean((2, 3))


OWN_ERROR = """import sys
import torch
from torch import nn


class Net(nn.Linear):
    def forward(self, x):
        if torch.compiler.is_exporting():
            {body}
        return x


def build():
    return Net(3, 2)
"""


def test_nodes_and_tensors_carry_the_names_of_modules(exported: Path) -> None:
    """A layer with weights has its module's name; the others their module's and the operator's."""
    graph = read_onnx(exported).graph
    assert [node.name for node in graph.node] == ["stem", "act.Clip", "depthwise", "Add", "Relu", "ReduceMean", "fc"]
    assert [node.output[0] for node in graph.node][:-1] == [node.name for node in graph.node][:-1]
    assert {"stem.weight", "stem.bias", "fc.bias"} <= {tensor.name for tensor in graph.initializer}


def test_the_file_says_what_the_network_says(tiny: nn.Module, exported: Path, samples: NDArray[np.float32]) -> None:
    """Outputs agree to rounding, image by image in calls of the file's batch size."""
    np.testing.assert_allclose(onnx_outputs(exported, fed(samples))[0], torch_outputs(tiny, fed(samples))[0], atol=1e-5)


def test_another_process_and_folder_give_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    """Neither the hash seed, the folder nor what was exported before shows in the file."""
    root, here = Path(__file__).parents[3], Path(__file__).parents[1] / "conftest.py"
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, root, here, tmp_path],
        check=True,
        env={"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
    )
    assert (tmp_path / "model.onnx").read_bytes() == exported.read_bytes()


def test_the_file_has_no_trace_of_how_it_was_made(exported: Path) -> None:
    """No path, no metadata, no producer."""
    model = read_onnx(exported)
    content = exported.read_bytes()
    assert not any(word in content for word in (b"torch", b"site-packages", str(Path(__file__).parents[3]).encode()))
    assert not model.producer_name
    assert not any(part.metadata_props for part in (model, model.graph, *model.graph.node, *model.graph.input))


def test_specs_are_those_of_the_request(tiny: nn.Module, tmp_path: Path) -> None:
    """Names and batch are the caller's."""
    given = [TensorSpec(name="x", shape=(4, 3, 8, 8))]
    inputs, outputs = export_onnx(tiny, tmp_path, given, ["scores"])
    assert [(spec.name, spec.shape, spec.dtype, spec.layout) for spec in (*inputs, *outputs)] == [
        ("x", (4, 3, 8, 8), "float32", "NCHW"),
        ("scores", (4, 4), "float32", "NC"),
    ]


def test_a_dynamic_batch_takes_any_number_of_images(exported_dynamic: Path, samples: NDArray[np.float32]) -> None:
    """One image at a time and all at once give the same."""
    assert onnx_specs(read_onnx(exported_dynamic))[0][0].shape == (-1, 3, 8, 8)
    single = np.concatenate([onnx_outputs(exported_dynamic, fed(samples[i : i + 1]))[0] for i in range(3)])
    np.testing.assert_allclose(onnx_outputs(exported_dynamic, fed(samples))[0][:3], single, atol=1e-6)


def test_a_batch_that_was_fixed_silently_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter may fix the batch without a word, where code keeps its size: such a file is no dynamic one."""
    translate = onnx_export._translate
    monkeypatch.setattr(onnx_export, "_translate", lambda *given: translate(*given[:-1], None))
    with pytest.raises(InputError, match="Conv2d was exported only for a batch of 4"):
        export_onnx(nn.Conv2d(1, 2, 3).eval(), tmp_path, image_input((4, 1, 4, 4)), dynamic_batch=True)


def test_the_second_call_of_a_module_gets_a_number(tmp_path: Path) -> None:
    """Names stay unique, and buffers keep theirs."""
    export_onnx(Twice().eval(), tmp_path, image_input((1, 2, 4, 4)))
    graph = read_onnx(tmp_path / "model.onnx").graph
    assert [node.name for node in graph.node] == ["conv", "Add", "conv_2"]
    assert "offset" in {tensor.name for tensor in graph.initializer}


@pytest.mark.parametrize("opset", [18, 24])
def test_the_opset_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    """The file states the version of its operators."""
    export_onnx(nn.Conv2d(1, 2, 3).eval(), tmp_path, image_input((1, 1, 4, 4)), opset=opset)
    assert read_onnx(tmp_path / "model.onnx").opset_import[0].version == opset


def test_a_network_that_cannot_be_traced_is_the_users_to_change(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line that names the line of the definition; the exporter's own pages of text stay unseen."""
    with pytest.raises(
        InputError, match=r"Branching .* at test_onnx.py:\d+ `return images if images.sum\(\)"
    ) as caught:
        export_onnx(Branching().eval(), tmp_path, image_input((1, 3, 8, 8)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()
    assert capfd.readouterr() == ("", "")


BOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(0, 0.5),
    "clip by name": lambda x: torch.clip(x, max=0.5, min=0),
    "in place": lambda x: (x + 0).clamp_(-0.5, 1),
    "integers with a fraction": lambda x: x * (x > 0).int().clamp(0, 1.5),
    "operator of a rewritten network": lambda x: torch.ops.aten.clamp.default(x, 0, 0.5),
    "two integers": lambda x: x.clamp(0, 1),
    "one": lambda x: x.clamp(min=0),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_bounds_of_two_kinds_are_exported(case: str, tmp_path: Path, samples: NDArray[np.float32]) -> None:
    """An integer beside a float is a bound like any other, and the file clips as the network does."""
    model = Bounded(BOUNDS[case]).eval()
    export_onnx(model, tmp_path, image_input((1, *samples.shape[1:])))
    found = onnx_outputs(tmp_path / "model.onnx", fed(samples))[0]
    np.testing.assert_allclose(found, torch_outputs(model, fed(samples))[0], atol=1e-6)


class Merged(nn.Module):
    """Computes the weights of evaluation from those of training in forward, through `.data`."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.skip, self.merged = (nn.Conv2d(3, 4, size, padding=size // 2) for size in (3, 1, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 4, H, W]."""
        if self.training:
            return self.wide(images) + self.skip(images)  # type: ignore[no-any-return]
        self.kernel = self.wide.weight.data.clone() + nn.functional.pad(self.skip.weight.data, (1, 1, 1, 1))
        self.merged.weight.data = self.kernel.contiguous()
        self.merged.bias.data = self.wide.bias.data + self.skip.bias.data
        return self.merged(images)  # type: ignore[no-any-return]


def test_weights_assigned_in_forward_are_exported(tmp_path: Path, samples: NDArray[np.float32]) -> None:
    """The file computes with the merged weights, and export itself assigns nothing."""
    model = Merged().eval()
    before = model.merged.weight.detach().clone()
    export_onnx(model, tmp_path, image_input((2, *samples.shape[1:])))
    assert torch.equal(before, model.merged.weight)
    images = torch.as_tensor(samples)
    wanted = (model.wide(images) + model.skip(images)).detach().numpy()
    np.testing.assert_allclose(onnx_outputs(tmp_path / "model.onnx", fed(samples))[0], wanted, atol=1e-5)


class Windows(nn.Module):
    """Cuts images into windows and finds the batch again by a division, as Swin transformers do."""

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        n, c, h, w = images.shape
        cut = images.permute(0, 2, 3, 1).reshape(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        windows = cut.reshape(-1, 4, 4, c).softmax(1)
        count = int(windows.shape[0] / (h * w / 4 / 4))
        joined = windows.view(count, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5)
        return joined.reshape(n, h, w, c).permute(0, 3, 1, 2)


def test_a_batch_found_by_division_stays_free(tmp_path: Path, samples: NDArray[np.float32]) -> None:
    """Torch's run alone would make a number of it, and mix the images of other batches."""
    model = Windows().eval()
    (given, *_), _ = export_onnx(model, tmp_path, image_input((2, *samples.shape[1:])), dynamic_batch=True)
    assert given.shape[0] < 1
    for batch in (1, 3):
        found = onnx_outputs(tmp_path / "model.onnx", fed(samples[:batch]))[0]
        np.testing.assert_allclose(found, torch_outputs(model, fed(samples[:batch]))[0], atol=1e-6)


def test_an_operator_that_onnx_lacks_is_told_as_that(tmp_path: Path) -> None:
    """It is no branch and no numpy: the operator is named."""
    with pytest.raises(InputError, match=r"no translation for an operation of it: .*rrelu") as caught:
        export_onnx(Bounded(nn.functional.rrelu).eval(), tmp_path, image_input((1, 3, 8, 8)))
    assert "numpy" not in str(caught.value)


def test_what_the_networks_own_code_raises_is_told_with_its_line(tmp_path: Path) -> None:
    """An exception for the exporter alone, and an end of the program, are the definition's to mend."""
    for body, expected in (
        ("raise ValueError('no export')", r"its code fails for the example: .*model\.py:9 .*ValueError: no export"),
        ("sys.exit(0)", r"model\.py:9 `sys\.exit\(0\)`: ended the program"),
    ):
        (tmp_path / "model.py").write_text(OWN_ERROR.format(body=body))
        with pytest.raises(InputError, match=expected):
            export_onnx(build_network(tmp_path / "model.py", {}), tmp_path, image_input((1, 3, 8, 8)))


def test_a_network_in_training_mode_is_refused(tmp_path: Path) -> None:
    """Batch norm would be exported with the statistics of one batch."""
    with pytest.raises(ValueError, match="evaluation mode"):
        export_onnx(nn.BatchNorm2d(3).train(), tmp_path, image_input((1, 3, 8, 8)))


def test_reading_what_is_no_onnx_file_is_an_input_error(tmp_path: Path) -> None:
    """Missing, garbage and valid but empty files are told apart in one line."""
    with pytest.raises(InputError, match="no such file"):
        read_onnx(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError, match="not a valid ONNX model"):
        read_onnx(tmp_path / "text.onnx")


def test_a_float_file_is_not_quantized(exported: Path) -> None:
    """None of its nodes works on integers."""
    assert not is_quantized(read_onnx(exported))


class Kept(nn.Module):
    """A layer under a name that graphs of torch use themselves."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kept = name
        setattr(self, name, nn.Conv2d(1, 2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, 2, H - 2, W - 2]."""
        found: Tensor = getattr(self, self.kept)(images)
        return found


@pytest.mark.parametrize("name", ["meta", "graph"])
def test_a_name_that_torch_keeps_is_to_be_changed(tmp_path: Path, name: str) -> None:
    """Deeper in a network it is nothing special."""
    with pytest.raises(InputError, match=f"torch.fx keeps the name {name}, .*such as {name}_layer"):
        export_onnx(Kept(name).eval(), tmp_path, image_input((1, 1, 4, 4)))
    if name == "meta":
        export_onnx(nn.Sequential(Kept(name)).eval(), tmp_path, image_input((1, 1, 4, 4)))
