"""An exported file from its path to its inspection: layers, times, noise, on images or on random inputs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.analysis.cost import onnx_cost
from pipeline.core.errors import InputError
from pipeline.export.onnx import export_onnx
from pipeline.export.openvino import export_openvino
from pipeline.inspect.exported_argument import exported_file
from pipeline.inspect.file import Images, InspectOptions, inspect_file, training_images
from pipeline.onnx_graph.file import finish_model, read_onnx, write_onnx
from tests.defaults import quantize_static
from tests.feeds import fed, image_input

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.project import Project


class Small(nn.Module):
    """Two convolutions with something between them that has no integer kernel, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 1, 12, 12] to [N, 2]."""
        scores: Tensor = self.head(self.second(nn.functional.gelu(self.first(images))).relu().mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    """Return eight inputs [8, 1, 12, 12]."""
    return np.random.default_rng(0).standard_normal((8, 1, 12, 12), dtype=np.float32)


@pytest.fixture(scope="module")
def files(images: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a float file, its int8 file, and the IR of that."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    export_onnx(Small().eval(), folder / "float", image_input((1, 1, 12, 12)))
    plain, whole = folder / "float" / "model.onnx", folder / "int8" / "model.onnx"
    write_onnx(finish_model(quantize_static(read_onnx(plain), images, scheme="u8s8-reduced").model), whole)
    export_openvino(whole, folder / "ir")
    return {"float": plain, "int8": whole, "ir": folder / "ir" / "model.xml"}


def test_everything_about_a_quantized_file(files: dict[str, Path], images: NDArray[np.float32]) -> None:
    """Precision, noise, time and what is to be looked at; operations as the cost of the file has them."""
    ways = InspectOptions(against=files["float"], images=Images(fed(images), "8 images"), runs=5)
    found = inspect_file(files["int8"], ways)
    layers = {layer.name: layer for layer in found.layers}
    assert found.macs == onnx_cost(files["int8"]).macs
    assert found.integer_macs == found.macs
    assert (found.samples, found.against, found.form) == ("8 images", str(files["float"]), "onnx")
    assert layers["first"].precision == layers["first"].computed_in == "int8"
    assert layers["first"].outputs == 8 * 144
    assert layers["Gelu"].computed_in == "float32"
    (island,) = (island for island in found.islands if "Gelu" in island.operators)
    assert island.converted_bytes == 2 * 8 * 144 * 5
    assert found.loses_most[0].own_sqnr_db == min(layer.own_sqnr_db or 150 for layer in found.layers)
    assert found.profile is not None
    assert found.profile.runs == 5
    assert 0 < (found.time_share(layers["first"]) or 0) < 1
    assert sum(operator.share for operator in found.profile.operators) == pytest.approx(1)
    assert found.profile.elsewhere_ns > 0
    assert {"float island"} <= {finding.kind for finding in found.findings}


def test_an_ir_is_inspected_alike(files: dict[str, Path], images: NDArray[np.float32]) -> None:
    """Noise and operations are those of its ONNX file; its size is that of both of its files."""
    ways = InspectOptions(against=files["float"], images=Images(fed(images), "8 images"), runs=5)
    found, expected = inspect_file(files["ir"], ways), inspect_file(files["int8"], ways)
    assert found.macs == expected.macs
    assert found.size_bytes == sum(files["ir"].with_suffix(end).stat().st_size for end in (".xml", ".bin"))
    assert found.profile is not None
    assert found.profile.runtime == "openvino"
    noise = {layer.name: layer.sqnr_db for layer in expected.layers}
    layers = {layer.name: layer for layer in found.layers}
    for name in ("first", "second", "head"):
        assert layers[name].sqnr_db == pytest.approx(noise[name], abs=0.5)
        assert layers[name].ran_in == "int8"


def test_random_inputs_are_said_to_be_random(files: dict[str, Path]) -> None:
    """The same seed gives the same noise; without a float file there is none, without runs no time."""
    ways = InspectOptions(against=files["float"], count=4, seed=3, runs=0)
    one, two = inspect_file(files["int8"], ways), inspect_file(files["int8"], ways)
    assert one == two
    assert one.samples.startswith("4 random inputs (normal, seed 3), not images")
    assert one.profile is None
    assert {layer.time_ns for layer in one.layers} == {None}
    alone = inspect_file(files["int8"], InspectOptions(count=2, runs=0))
    assert {layer.sqnr_db for layer in alone.layers} == {None}
    assert alone.loses_most == ()


def test_a_float_file_has_nothing_to_look_at(files: dict[str, Path]) -> None:
    """No layer computes on integers, so none is left behind."""
    found = inspect_file(files["float"], InspectOptions(count=2, runs=2))
    assert found.integer_macs == 0
    assert found.islands == ()
    assert not {"left in float", "float island"} & {finding.kind for finding in found.findings}


def test_sizes_that_a_file_leaves_open_are_asked_for(tmp_path: Path) -> None:
    """By name of the input; given ones must fit."""
    export_onnx(nn.Sequential(nn.Conv2d(1, 2, 3)).eval(), tmp_path, image_input((1, 1, 8, 8)), dynamic_batch=True)
    model = read_onnx(tmp_path / "model.onnx")
    for port in (*model.graph.input, *model.graph.output):
        for place in (2, 3):
            port.type.tensor_type.shape.dim[place].dim_param = f"{port.name}{place}"
    del model.graph.value_info[:]
    write_onnx(model, tmp_path / "open.onnx")
    with pytest.raises(InputError, match=r"has shape \[-1, 1, -1, -1\]. Give the open sizes"):
        inspect_file(tmp_path / "open.onnx", InspectOptions())
    with pytest.raises(InputError, match=r"found \[3, 10, 10\]"):
        inspect_file(tmp_path / "open.onnx", InspectOptions(shapes=((1, 3, 10, 10),)))
    with pytest.raises(InputError, match="has 1 inputs, found 2 --input"):
        inspect_file(tmp_path / "open.onnx", InspectOptions(shapes=((1, 1, 10, 10),) * 2))
    found = inspect_file(tmp_path / "open.onnx", InspectOptions(shapes=((1, 1, 10, 10),), count=1, runs=1))
    assert found.macs == 64 * 2 * 9
    assert found.inputs[0].shape == (-1, 1, 10, 10)
    given = Images({found.inputs[0].name: np.zeros((2, 1, 9, 9), np.float32)}, "two samples")
    assert inspect_file(tmp_path / "open.onnx", InspectOptions(images=given, runs=1)).inputs[0].shape == (-1, 1, 9, 9)


def test_images_are_those_of_the_training_split(project: Project) -> None:
    """Normalised, drawn with the seed, and never more than there are."""
    one, two, other = (training_images(project.recipe, (), 12, seed) for seed in (0, 0, 1))
    assert one.words == "12 training images of toy"
    assert one.feeds["input"].shape == (12, 1, 12, 12)
    assert np.array_equal(one.feeds["input"], two.feeds["input"])
    assert not np.array_equal(one.feeds["input"], other.feeds["input"])
    assert one.feeds["input"].min() < 0
    with pytest.raises(InputError, match="--samples is 97, the training split of toy has 96: ask for fewer"):
        training_images(project.recipe, (), 97, 0)
    assert training_images(project.recipe, ["data.arguments.train=4"], 4, 0).feeds["input"].shape[0] == 4


def test_which_arguments_are_files(files: dict[str, Path], tmp_path: Path) -> None:
    """By ending, or a folder that has a model; nothing else."""
    assert exported_file("nowhere.onnx") is not None
    assert exported_file(str(files["int8"].parent)) == files["int8"]
    assert exported_file(str(files["ir"].parent)) == files["ir"]
    (tmp_path / "folder.onnx").mkdir()
    for given in (
        "recipe.yaml",
        "model.py",
        "timm:resnet50",
        str(tmp_path),
        "model.bin",
        str(tmp_path / "folder.onnx"),
    ):
        assert exported_file(given) is None


def test_torch_is_not_loaded(files: dict[str, Path]) -> None:
    """An exported file is inspected without the library that it came from."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.inspect.file import InspectOptions, inspect_file\n"
        f"inspect_file(Path({str(files['int8'])!r}), InspectOptions(count=1, runs=1))\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
