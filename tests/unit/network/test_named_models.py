"""Networks of installed packages by name: recipe, plan, building and the stored artifact, with a made-up package."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.core.artifact import Artifact, payload_digest
from pipeline.core.errors import InputError, RecipeError
from pipeline.core.store import Store
from pipeline.network import definition as zoo
from pipeline.network.library import definition_of
from pipeline.network.stored import load_network, write_original
from pipeline.recipe import load_recipe
from pipeline.run.plan import make_plan
from tests.optional import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECIPE = """\
format: 1
name: by name
model: {definition: "timm:tiny.a1", arguments: {num_classes: 2}}
data: {source: file, path: data.py}
stages:
  - {kind: export, to: onnx}
"""
DATA = """
import numpy as np
from pipeline.core.dataset import Dataset, Normalisation, Split
def load():
    split = Split(np.zeros((4, 1, 8, 8), np.uint8), np.arange(4) % 2)
    return Dataset("two", ("a", "b"), Normalisation((0.5,), (0.5,)), split, split, split)
"""
TIMM = """
from torch import nn
__version__ = "9.9"
def list_models():
    return ["tiny", "tinier", "huge"]
def is_model(name):
    return name.partition(".")[0] in list_models()
def create_model(name, pretrained, num_classes=5):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    if pretrained:
        nn.init.ones_(network[1].weight)
    return network
"""


@pytest.fixture
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package timm of one small network, with its metadata, in a folder of its own; return that folder."""
    folder = tmp_path / "site"
    (folder / "timm-9.9.dist-info").mkdir(parents=True)
    (folder / "timm-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 9.9\n")
    (folder / "timm.py").write_text(TIMM)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    yield folder
    sys.modules.pop("timm", None)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Return a recipe that names its network."""
    (tmp_path / "data.py").write_text(DATA)
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


@pytest.mark.usefixtures("timm")
def test_recipe_takes_a_name(recipe: Path) -> None:
    """The name gives the package's definition and an argument; the text of the recipe stays what it was."""
    loaded = load_recipe(recipe)
    model = loaded.recipe.model
    assert model.definition == definition_of("timm")
    assert model.arguments == {"num_classes": 2, "name": "tiny.a1"}
    assert loaded.raw["model"]["definition"] == "timm:tiny.a1"
    overridden = load_recipe(recipe, ["model.definition=timm:huge"])
    assert overridden.recipe.model.arguments["name"] == "huge"


@pytest.mark.usefixtures("timm")
def test_version_of_the_package_is_part_of_the_key(recipe: Path, tmp_path: Path) -> None:
    """Another version of the package may build another network, so the original counts it."""
    original = make_plan(load_recipe(recipe), Store(tmp_path / "store"), seed=0).steps[0]
    assert original.ingredients["versions"]["timm"] == "9.9"
    assert original.ingredients["arguments"]["name"] == "tiny.a1"


def test_missing_package_is_a_problem_of_the_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The problem has its line, and says what to install."""
    monkeypatch.setattr("pipeline.network.library.find_spec", lambda _: None)
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (3, "model.definition")
    assert problem.message == 'found "timm:tiny.a1", but the package timm is not installed: pip install timm'


def test_unknown_package_is_told_what_is_known(recipe: Path) -> None:
    """A name that looks like one of a package is no file; the message says which packages have names."""
    with pytest.raises(RecipeError, match="no such file, allowed: an existing file, or timm:NAME, torchvision:NAME"):
        load_recipe(recipe, ["model.definition=tim:tiny"])


@pytest.mark.usefixtures("timm")
def test_unknown_name_is_answered_with_the_nearest() -> None:
    """A misspelt network is bad input; the message has names to choose from."""
    with pytest.raises(InputError, match=r"timm 9\.9 has no network 'tinyer'; nearest: tinier, tiny"):
        zoo.build_network(definition_of("timm"), {"name": "tinyer"})


@pytest.mark.usefixtures("timm")
def test_stored_network_needs_no_download(tmp_path: Path) -> None:
    """The artifact holds the downloaded tensors; loading it again builds the same network without asking for them."""
    arguments = {"name": "tiny", "num_classes": 2, "pretrained": True}
    model = zoo.build_network(definition_of("timm"), arguments)
    folder = tmp_path / "stored"
    folder.mkdir()
    write_original(folder, model, definition_of("timm"), arguments)
    assert '"pretrained": false' in (folder / "network.json").read_text()
    digest = payload_digest("torch", folder)
    again = load_network(Artifact(form="torch", folder=folder, digest=digest, inputs=(), outputs=()))
    assert torch.equal(again(torch.ones(1, 1, 8, 8)), model(torch.ones(1, 1, 8, 8)))


def test_operators_of_another_build_are_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A definition that stops at compiled operators that are not there is run again with these declared."""
    monkeypatch.setattr(zoo, "DETECTION", "detection_of_another_build")
    file = tmp_path / "model.py"
    file.write_text(
        "import torch\n"
        "for name in ('nms', 'qnms'):\n"
        "    torch.library.register_fake(f'detection_of_another_build::{name}')(lambda boxes, scores, most: boxes)\n"
        "def build():\n    return torch.nn.Identity()\n"
    )
    assert isinstance(zoo.build_network(file, {}), torch.nn.Identity)
    file.write_text("import torch\ntorch.library.register_fake('somewhere_else::op')(lambda x: x)\n")
    with pytest.raises(InputError, match="operator somewhere_else::op does not exist"):
        zoo.build_network(file, {})


SMALL_VIT = {
    "num_labels": 3,
    "num_channels": 1,
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 24,
}


@pytest.mark.parametrize(
    ("package", "name", "arguments", "channels", "tensor"),
    [
        ("timm", "resnet18", {"num_classes": 3, "in_chans": 1}, 1, "layer1.0.conv1.weight"),
        ("torchvision", "shufflenet_v2_x0_5", {"num_classes": 3}, 3, "stage2.0.branch1.0.weight"),
        ("transformers", "ViTForImageClassification", SMALL_VIT, 1, "vit.embeddings.cls_token"),
    ],
)
def test_real_packages(package: str, name: str, arguments: dict[str, object], channels: int, tensor: str) -> None:
    """Where a package is installed, its networks give logits, with the tensor names and the answers of the package."""
    require(package)
    model = zoo.build_network(definition_of(package), {"name": name, **arguments})
    size = 8 if package == "transformers" else 32
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 3)
    assert tensor in model.state_dict()
    with pytest.raises(InputError, match=f"{package} .* has no network .*; nearest: .*{name}"):
        zoo.build_network(definition_of(package), {"name": name[:-1]})
