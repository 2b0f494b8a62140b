"""Definitions load by path; weights fit or the message lists what does not."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import InputError
from pipeline.zoo import build, load_weights, read_weights

MODELS = Path(__file__).parents[2] / "models"
DEFINITION = "from torch import nn\ndef build(width=3):\n    return nn.Linear(2, width)\n"
PARAMETERS = {
    "lenet_300_100": ({}, (1, 28, 28), 266_610),
    "lenet_5": ({}, (1, 28, 28), 431_080),
    "resnet_cifar": ({"depth": 20}, (3, 32, 32), 272_474),
    "resnet_cifar deep": ({"depth": 56}, (3, 32, 32), 855_770),
    "resnet18": ({}, (3, 64, 64), 11_689_512),
    "efficientnet_lite0": ({}, (3, 64, 64), 4_652_008),
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_reference_network_has_its_published_size(name: str) -> None:
    """Parameters as published, and one logit for each class."""
    arguments, shape, expected = PARAMETERS[name]
    model = build(MODELS / name.split(maxsplit=1)[0] / "model.py", arguments)
    assert not model.training
    assert model(torch.zeros(2, *shape)).shape == (2, 1000 if expected > 1_000_000 else 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_every_model_folder_is_covered() -> None:
    """A new model folder needs a row above."""
    assert {path.parent.name for path in MODELS.glob("*/model.py")} == {name.split()[0] for name in PARAMETERS}


def test_imagenet_weights_are_those_of_the_package() -> None:
    """All 296 tensors of the package are used, each exactly once and bit-equal."""
    definition = MODELS / "efficientnet_lite0" / "model.py"
    names = runpy.run_path(str(definition))
    state = build(definition, {"pretrained": True}).state_dict()
    source = names["imagenet_weights"]()
    assert {names["package_name"](name) for name in state} == set(source)
    assert len(state) == 296
    assert all(torch.equal(tensor, source[names["package_name"](name)]) for name, tensor in state.items())
    for_two = build(definition, {"pretrained": True, "classes": 2}).state_dict()
    assert torch.equal(for_two["head.weight"], state["head.weight"])


def test_definition_errors_are_one_message(tmp_path: Path) -> None:
    """A file that cannot be imported, has no build, fails in build, or returns something else is bad input."""
    file = tmp_path / "model.py"
    for text, arguments, match in (
        ("import nowhere_at_all\n", {}, "cannot be imported: ModuleNotFoundError"),
        ("x = 1\n", {}, "has no function build"),
        (DEFINITION, {"depth": 2}, r"build\(depth=2\) failed: TypeError"),
        ("def build():\n    return 5\n", {}, "returned int"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=match):
            build(file, arguments)


def test_wrong_weights_list_names_and_shapes(tmp_path: Path) -> None:
    """Missing, unknown and misshapen tensors are listed with their shapes."""
    file = tmp_path / "model.py"
    file.write_text(DEFINITION)
    model = build(file, {})
    with pytest.raises(InputError) as caught:
        load_weights(model, {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}, "w.safetensors")
    text = str(caught.value)
    assert "missing: bias (3,)" in text
    assert "unknown: extra (1,)" in text
    assert "shape: weight is (4, 2), the model has (3, 2)" in text


def test_weights_of_every_kind(tmp_path: Path) -> None:
    """Safetensors in half precision and a .pt state dictionary give the same float32 tensors."""
    file = tmp_path / "model.py"
    file.write_text(DEFINITION)
    tensors = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "w.pt")
    for source in (tmp_path / "w.safetensors", tmp_path / "w.pt"):
        model = build(file, {})
        load_weights(model, read_weights(source), str(source))
        assert model.weight.dtype == torch.float32
        assert torch.equal(model.weight, torch.ones(3, 2))  # type: ignore[arg-type]


class Trap:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """Ask the unpickler to open a file for writing."""
        return open, ("trapped", "w")  # type: ignore[return-value]


def test_pickled_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .pth that needs unpickling of objects is refused, and none of its code runs."""
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, tmp_path / "w.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("w.pth", "raw.pth"):
        with pytest.raises(InputError, match=r"refused: save model\.state_dict"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "trapped").exists()
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(tmp_path / "broken.safetensors")
