"""MODEL on the command line: every form gives a network with its inputs, every mistake one message."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.artifact import Artifact, TensorSpec, payload_digest
from pipeline.core.errors import InputError
from pipeline.core.store import write_artifact
from pipeline.data.config import Cifar, Elpv, FashionMnist, ImageFolder
from pipeline.inspect.model_argument import input_shape, load_model
from pipeline.network.definition import build_network
from pipeline.network.stored import write_original

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project


def stored(project: Project, folder: Path) -> Path:
    """Write the toy network as a torch artifact."""
    folder.mkdir(parents=True)
    arguments = {"classes": 2, "width": 8}
    write_original(
        folder, build_network(project.folder / "model.py", arguments), project.folder / "model.py", arguments
    )
    spec = TensorSpec(name="input", shape=(1, 1, 12, 12), layout="NCHW")
    digest = payload_digest("torch", folder)
    write_artifact(Artifact(form="torch", folder=folder, digest=digest, inputs=(spec,), outputs=()), folder)
    return folder


def test_recipe_gives_network_and_shape(project: Project) -> None:
    """The user's own data is loaded for its shape; --set reaches the model, and --input goes before the data."""
    found = load_model(str(project.recipe), overrides=["model.arguments.width=4"])
    assert (found.name, found.inputs[0].shape) == ("toy", (1, 1, 12, 12))
    assert dict(found.network.named_parameters())["stem.weight"].shape == (4, 1, 3, 3)
    assert load_model(str(project.recipe), inputs=["1,16,16"]).inputs[0].shape == (1, 1, 16, 16)


def test_definition_takes_arguments_and_inputs(project: Project) -> None:
    """Values are read as YAML; each --input is one input, with its type where it is given."""
    path = str(project.folder / "model.py")
    found = load_model(path, arguments=["classes=3", "width=8"], inputs=["1,12,12", "7:int64"])
    assert found.name == path
    assert [(spec.name, spec.shape, spec.dtype) for spec in found.inputs] == [
        ("input", (1, 1, 12, 12), "float32"),
        ("input1", (1, 7), "int64"),
    ]
    assert dict(found.network.named_parameters())["fc.weight"].shape == (3, 8)


def test_stored_network_knows_its_inputs(project: Project, tmp_path: Path) -> None:
    """The folder and its network.json are the same network."""
    folder = stored(project, tmp_path / "stored")
    for given in (folder, folder / "network.json"):
        found = load_model(str(given))
        assert found.inputs[0].shape == (1, 1, 12, 12)
        assert dict(found.network.named_parameters())["stem.weight"].shape == (8, 1, 3, 3)


def test_run_folder_says_which_networks_it_has(project: Project, tmp_path: Path) -> None:
    """A run has several networks, so one has to be named."""
    folder = stored(project, tmp_path / "run" / "stages" / "00-original")
    with pytest.raises(InputError, match=f"networks in torch are {folder}"):
        load_model(str(tmp_path / "run"))


def test_damaged_artifact_is_named(project: Project, tmp_path: Path) -> None:
    """An artifact.json that cannot be read is a bad input, not a crash."""
    folder = stored(project, tmp_path / "stored")
    (folder / "artifact.json").write_text("{}")
    with pytest.raises(InputError, match=r"artifact.json is damaged"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("nowhere.py", {}, "found no file or folder nowhere.py"),
        ("data.txt", {}, "not a kind of model.*or an exported file"),
        (".", {}, "found no network.json, model.onnx or model.xml in it"),
        ("model.py", {}, "model.py does not say what it takes"),
        ("toy.yaml", {"arguments": ["width=4"]}, "with a recipe, allowed there: --set model.arguments"),
        ("model.py", {"overrides": ["a=1"]}, "found --set a=1 with anything but a recipe"),
        (".", {"arguments": ["a=1"]}, "with a stored network"),
        ("model.py", {"arguments": ["width"], "inputs": ["1,12,12"]}, "found 'width', expected KEY=VALUE"),
        ("model.py", {"arguments": ["width=[1]"], "inputs": ["1,12,12"]}, r"found \[1\], expected a number"),
        ("model.py", {"arguments": ["width={"], "inputs": ["1,12,12"]}, "--arguments width={"),
        ("model.py", {"arguments": ["depth=3"], "inputs": ["1,12,12"]}, r"build\(depth=3\) failed"),
        ("model.py", {"inputs": ["3,x"]}, "found '3,x', expected sizes without the batch"),
        ("model.py", {"inputs": ["3,0"]}, "found '3,0', expected sizes"),
        ("model.py", {"inputs": ["3:float"]}, None),
        ("model.py", {"inputs": ["3:nn"]}, "found the type 'nn', expected one of torch's"),
        ("timm:resnet50", {"arguments": ["name=vit"], "inputs": ["3,8,8"]}, "allowed: one of them"),
    ],
)
def test_mistakes(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    options: dict[str, list[str]],
    message: str | None,
) -> None:
    """Each says what was found and what is expected; the one without a message is no mistake."""
    monkeypatch.chdir(project.folder)
    (project.folder / "data.txt").write_text("")
    if message is None:
        assert load_model(given, **options).inputs[0].dtype == "float"
        return
    with pytest.raises(InputError, match=message):
        load_model(given, **options)


def test_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of a package's network says which package to install."""
    monkeypatch.setattr("pipeline.network.library.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"timm:resnet50: the package timm is not installed: pip install timm"):
        load_model("timm:resnet50", inputs=["3,224,224"])


def test_network_of_a_package_is_built_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text after the colon reaches the package with the arguments."""
    (tmp_path / "timm.py").write_text(
        "from torch import nn\n\n"
        "def is_model(name):\n    return name == 'tiny'\n\n"
        "def create_model(name, pretrained, num_classes):\n    return nn.Linear(4, num_classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    found = load_model("timm:tiny", arguments=["num_classes=3"], inputs=["4"])
    assert (found.name, dict(found.network.named_parameters())["weight"].shape) == ("timm:tiny", (3, 4))
    sys.modules.pop("timm")


def test_shape_is_that_of_the_data(project: Project) -> None:
    """Sources whose shape their configuration decides are not loaded; the others are."""
    folder = project.folder
    assert input_shape(Elpv(source="elpv", size=64, channels=3)) == (3, 64, 64)
    assert input_shape(FashionMnist(source="fashion-mnist")) == (1, 28, 28)
    assert input_shape(Cifar.model_construct(source="cifar10", root=folder)) == (3, 32, 32)
    assert input_shape(ImageFolder.model_construct(source="folder", root=folder, size=40, channels=1)) == (1, 40, 40)
    own = load_model(str(project.recipe))
    assert own.inputs[0].shape == (1, 1, 12, 12)
