"""What a network has beside its state_dict travels with it, or the network is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.prune import prune_channels
from pipeline.compress.state.outside import PREFIX, encoded_state, outside_state, restore_state, split_state
from pipeline.compress.state.reproduction import own_randomness
from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.errors import InputError
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, loads_alike, write_network, write_original
from pipeline.network.weights import load_weights, read_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

SPECS = (TensorSpec(name="input", shape=(1, 3, 8, 8)),)

DEFINITION = """
import random

import numpy as np
import torch
from torch import nn


class Helper:
    def __init__(self):
        self.table = torch.randn(3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)
        self.calls = None
        {make}

    def forward(self, images):
        logits = self.fc(self.conv(images).relu().mean((2, 3)))
        {use}


def build():
    return Net()
"""

#: What __init__ makes, what forward does with it, and the place where it lies.
TRAVELS = {
    "buffer": ('self.register_buffer("p", torch.randn(3), persistent=False)', "return logits * self.p", "p"),
    "attribute": ("self.p = torch.randn(3)", "return logits * self.p", "p"),
    "of a layer": ("self.fc.p = torch.randn(3)", "return logits * self.fc.p", "p"),
    "list": ("self.p = [torch.randn(3), torch.ones(3)]", "return logits * self.p[0] * self.p[1]", "p"),
    "tuple": ("self.p = (1, torch.randn(3))", "return logits * self.p[1]", "p"),
    "dictionary": ('self.p = {"a": {2: torch.randn(3)}}', 'return logits * self.p["a"][2]', "p"),
    "numpy": ("self.p = np.random.rand(3)", "return logits * torch.tensor(self.p).float()", "p"),
    "integers": ("self.p = torch.randperm(2)", "return logits[:, :2] * self.p", "p"),
    "a layer that is not registered": ("self.p = [nn.Linear(3, 3)]", "return self.p[0](logits)", "p"),
    "an own object": ("self.p = Helper()", "return logits * self.p.table", "p"),
    "made at the first call": (
        "",
        "self.calls = torch.randn(3) if self.calls is None else self.calls\n        return logits * self.calls",
        "calls",
    ),
}
#: What is the same in every network built anew needs no place.
SAME = {
    "nothing": ("", "return logits"),
    "constant": ('self.register_buffer("p", torch.arange(3.0), persistent=False)', "return logits * self.p"),
    "constant made at the first call": (
        "",
        "self.calls = torch.ones(len(images), 1)\n        return logits * self.calls",
    ),
}
REFUSED = {
    "random forward": ("", "return logits + torch.randn(3)", r"its own forward draws random numbers.*register_buffer"),
    "random layer": (
        "self.noise = nn.RReLU()\n        self.noise.forward = lambda x: x * torch.rand(1)",
        "return self.noise(logits)",
        r"layer noise \(RReLU\) draws random numbers",
    ),
    "random number": (
        "self.scale = random.random()",
        "return logits * self.scale",
        r"scale of the network \(0\.\d+, then",
    ),
    "odd key": (
        "self.p = {(1, 2): torch.randn(3)}",
        "return logits * self.p[1, 2]",
        r"p\[\(1, 2\)\] of the network.*register_buffer",
    ),
}


def definition(folder: Path, make: str, use: str) -> Path:
    """Write a definition."""
    file = folder / "model.py"
    file.write_text(DEFINITION.replace("{make}", make).replace("{use}", use))
    return file


def at(folder: Path) -> Artifact:
    """Return the artifact in a folder."""
    return Artifact(form="torch", folder=folder, digest="", inputs=SPECS, outputs=())


def stored(folder: Path, file: Path) -> nn.Module:
    """Build a network, run it once as the runner does, and store it."""
    with own_randomness(0):
        model = build_network(file, {})
    folder.mkdir()
    with torch.no_grad():
        model(torch.zeros(SPECS[0].shape))
    write_original(folder, model, file, {}, SPECS)
    return model


@pytest.mark.parametrize("case", TRAVELS)
def test_state_travels_with_the_network(tmp_path: Path, case: str) -> None:
    """A network that was read back gives the same bits, also after it was written again in half precision."""
    make, use, attribute = TRAVELS[case]
    file = definition(tmp_path, make, use)
    model, images = stored(tmp_path / "a", file), torch.randn(2, 3, 8, 8)
    again = load_network(at(tmp_path / "a"))
    assert torch.equal(again(images), model(images))
    names = [name for name in load_file(tmp_path / "a/weights.safetensors") if name.startswith("outside")]
    assert names
    assert all(f'"{attribute}"' in name for name in names)
    (tmp_path / "b").mkdir()
    write_network(tmp_path / "b", again, parent=at(tmp_path / "a"), half=True)
    halves = [load_network(at(tmp_path / "b"))(images) for _ in range(2)]
    assert torch.equal(*halves)
    assert torch.allclose(halves[0], model(images), atol=0.01)


@pytest.mark.parametrize("case", ["buffer", "attribute", "literal sizes"])
def test_a_pruned_network_keeps_its_state(tmp_path: Path, case: str) -> None:
    """In place and as a definition of its own, read back from a file that holds the state of its parent."""
    make, use, _ = TRAVELS.get(case, TRAVELS["buffer"])
    if case == "literal sizes":
        use = f"logits = self.fc(self.conv(images).relu().mean((2, 3)).view(-1, 4))\n        {use}"
    model, images = stored(tmp_path / "a", definition(tmp_path, make, use)), torch.randn(2, 3, 8, 8)
    captured = capture_graph(model, (images,))
    graph = trace_channels(captured)
    pruned = prune_channels(captured, graph, model, {group.name: range(group.width // 2) for group in graph.groups})
    assert pruned.rewritten or case != "literal sizes"
    (tmp_path / "b").mkdir()
    edit = {"kind": "prune", "keep": pruned.plan.as_json()}
    write_network(tmp_path / "b", pruned.model, parent=at(tmp_path / "a"), edits=[edit])
    assert torch.equal(load_network(at(tmp_path / "b"))(images), pruned.model(images))


@pytest.mark.parametrize("case", SAME)
def test_what_building_anew_gives_is_not_stored(tmp_path: Path, case: str) -> None:
    """The file holds the state_dict alone, and the network in memory is as it was."""
    file = definition(tmp_path, *SAME[case])
    model = build_network(file, {})
    (tmp_path / "a").mkdir()
    write_original(tmp_path / "a", model, file, {}, SPECS)
    assert load_file(tmp_path / "a/weights.safetensors").keys() == model.state_dict().keys()
    assert model.calls is None


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_travel_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """The message names the attribute or layer, and what to do."""
    make, use, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        stored(tmp_path / "a", definition(tmp_path, make, use))


def test_a_stored_network_is_a_weight_file_too(tmp_path: Path) -> None:
    """Its weights given to a network of the same definition bring the state; another network names the place."""
    make, use, _ = TRAVELS["buffer"]
    model = stored(tmp_path / "a", definition(tmp_path, make, use))
    weights = read_weights(tmp_path / "a/weights.safetensors")
    other = build_network(tmp_path / "model.py", {})
    load_weights(other, weights, "weights")
    assert torch.equal(other.p, model.p)
    weights[PREFIX + '["", "gone", "deep"]'] = torch.ones(1)
    with pytest.raises(InputError, match=r"gone.*no such place"):
        load_weights(other, weights, "weights")


@pytest.mark.parametrize("case", ["buffer", "attribute", "made at the first call"])
def test_a_network_stored_without_its_state_is_known(tmp_path: Path, case: str) -> None:
    """As earlier versions wrote it, it loads to another network each time."""
    stored(tmp_path / "a", definition(tmp_path, *TRAVELS[case][:2]))
    assert loads_alike(at(tmp_path / "a"))
    inside, _ = split_state(load_file(tmp_path / "a/weights.safetensors"))
    save_file(inside, tmp_path / "a/weights.safetensors")
    assert not loads_alike(at(tmp_path / "a"))


def test_random_numbers_of_the_process_stay(tmp_path: Path) -> None:
    """Reading back draws nothing from the generators of the run."""
    file = definition(tmp_path, "self.p = np.random.rand(3)", "return logits * random.random() * 0 + logits")
    model = build_network(file, {})
    (tmp_path / "a").mkdir()
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    write_original(tmp_path / "a", model, file, {}, SPECS)
    assert torch.equal(torch.get_rng_state(), expected)


def test_state_can_be_taken_and_given(tmp_path: Path) -> None:
    """Names hold places of text and numbers; what is restored has the type that it had."""
    model, other = (build_network(definition(tmp_path, *TRAVELS["dictionary"][:2]), {}) for _ in range(2))
    inside, outside = split_state({**model.state_dict(), **encoded_state(outside_state(model))})
    restore_state(other, outside)
    assert inside.keys() == model.state_dict().keys()
    assert torch.equal(other.p["a"][2], model.p["a"][2])
