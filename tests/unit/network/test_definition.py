"""Definitions load by path; weights fit or the message lists what does not."""

from __future__ import annotations

import io
import os
import pickle
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import InputError
from pipeline.network.definition import build_network
from pipeline.network.weights import load_weights, read_weights

MODELS = Path(__file__).parents[3] / "models"
DEFINITION = "from torch import nn\ndef build(width=3):\n    return nn.Linear(2, width)\n"


def test_imagenet_weights_are_those_of_the_package() -> None:
    """All 296 tensors of the package are used, each exactly once and bit-equal."""
    definition = MODELS / "efficientnet_lite0" / "model.py"
    names = runpy.run_path(str(definition))
    state = build_network(definition, {"pretrained": True}).state_dict()
    source = names["imagenet_weights"]()
    assert {names["package_name"](name) for name in state} == set(source)
    assert len(state) == 296
    assert all(torch.equal(tensor, source[names["package_name"](name)]) for name, tensor in state.items())
    for_two = build_network(definition, {"pretrained": True, "classes": 2}).state_dict()
    assert torch.equal(for_two["head.weight"], state["head.weight"])


def test_definition_errors_are_one_message(tmp_path: Path) -> None:
    """A file that cannot be imported, has no build, fails in build, or returns something else is bad input."""
    file = tmp_path / "model.py"
    (tmp_path / "blocks.py").touch()
    for text, arguments, match in (
        (
            "import blocks\n",
            {},
            r"blocks\.py is next to it, but a definition is one file: put what it needs into that file",
        ),
        ("import nowhere_at_all\n", {}, "ModuleNotFoundError: .* Install it: pip install nowhere_at_all"),
        ("x = 1\n", {}, "has no function build"),
        (DEFINITION, {"depth": 2}, r"build\(depth=2\) failed: TypeError"),
        ("def build():\n    return 5\n", {}, "returned int"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=match):
            build_network(file, arguments)


def test_wrong_weights_list_names_and_shapes(tmp_path: Path) -> None:
    """Missing, unknown and misshapen tensors are listed with their shapes."""
    file = tmp_path / "model.py"
    file.write_text(DEFINITION)
    model = build_network(file, {})
    with pytest.raises(InputError) as caught:
        load_weights(model, {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}, "w.safetensors")
    text = str(caught.value)
    assert "missing: bias (3,)" in text
    assert "unknown: extra (1,)" in text
    assert "shape: weight is (4, 2), the model has (3, 2)" in text
    assert "another width" not in text


def test_weights_of_another_width_are_said_to_be_that(tmp_path: Path) -> None:
    """When every name fits and shapes alone differ, the message says what that means and what to give instead."""
    file = tmp_path / "model.py"
    file.write_text(DEFINITION)
    with pytest.raises(InputError) as caught:
        load_weights(build_network(file, {}), build_network(file, {"width": 2}).state_dict(), "narrow.safetensors")
    text = str(caught.value)
    assert "0 missing, 0 unknown, 2 shape" in text
    assert "bias is (2,), the model has (3,)" in text
    assert "the same network with other widths: pruned" in text
    assert "model.arguments" in text


def test_weights_of_every_kind(tmp_path: Path) -> None:
    """Safetensors in half precision and a .pt state dictionary give the same float32 tensors."""
    file = tmp_path / "model.py"
    file.write_text(DEFINITION)
    tensors = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "w.pt")
    for source in (tmp_path / "w.safetensors", tmp_path / "w.pt"):
        model = build_network(file, {})
        load_weights(model, read_weights(source), str(source))
        assert model.weight.dtype == torch.float32
        assert torch.equal(model.weight, torch.ones(3, 2))  # type: ignore[arg-type]


class Trap:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """Ask the unpickler to make a folder."""
        return os.mkdir, ("trapped",)  # type: ignore[return-value]


def hostile(kind: str) -> bytes:
    """Return a file that runs code when it is unpickled: a bare pickle, or as torch writes it, new and old."""
    if kind == "pickle":
        return pickle.dumps({"weight": Trap()})
    content = io.BytesIO()
    torch.save({"weight": Trap()}, content, _use_new_zipfile_serialization=kind == "zip")
    return content.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_the_hostile_file_is_hostile(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read without protection, each of the files runs its code: the test after this one can fail."""
    monkeypatch.chdir(tmp_path)
    if kind == "pickle":
        pickle.loads(hostile(kind))  # noqa: S301 (the test's own)
    else:
        torch.load(io.BytesIO(hostile(kind)), weights_only=False)
    assert (tmp_path / "trapped").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_a_pickle_is_never_executed(kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name says, a file that needs unpickling of objects is refused, and none of its code runs."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(hostile(kind))
    match = "cannot be read" if suffix == ".safetensors" else r"are refused\. Where it was made, save model\.state_dict"
    with pytest.raises(InputError, match=match):
        read_weights(file)
    assert not (tmp_path / "trapped").exists()


def test_what_is_no_weight_file_is_refused(tmp_path: Path) -> None:
    """A damaged file, and plain values that are no tensors, are one message."""
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(tmp_path / "broken.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="hold list, expected a dictionary of tensors"):
        read_weights(tmp_path / "list.pt")
