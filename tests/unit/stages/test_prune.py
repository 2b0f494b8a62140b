"""The prune stage: what it writes, what it reports and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from pydantic import ValidationError

from pipeline.compress.cost import count
from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import Context, Outcome, Target
from pipeline.network import load_network, write_original
from pipeline.stages.prune import Prune
from pipeline.zoo import build

if TYPE_CHECKING:
    from pathlib import Path

DEFINITION = """
from torch import nn


class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        inner = nn.Conv2d(width, 24, 3, padding=1)
        self.block = nn.Sequential(inner, nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, width, 1))
        self.gate = nn.Conv2d(width, 4, 1)
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x) + self.gate(x).mean((1, 2, 3), keepdim=True)
        return self.fc(x.mean((2, 3)))


def build(width=16):
    return Small(width)
"""


def original(folder: Path, width: int = 16, shape: tuple[int, ...] = (-1, 1, 6, 6)) -> Artifact:
    """Write the network as a torch artifact."""
    definition = folder / "model.py"
    definition.write_text(DEFINITION)
    place = folder / "original"
    place.mkdir()
    torch.manual_seed(0)
    write_original(place, build(definition, {"width": width}), definition, {"width": width})
    return artifact(place, shape)


def artifact(folder: Path, shape: tuple[int, ...] = (-1, 1, 6, 6)) -> Artifact:
    """Return the artifact that lies in a folder."""
    inputs, outputs = (TensorSpec(name="x", shape=shape),), (TensorSpec(name="y", shape=(-1, 3)),)
    return Artifact(form="torch", folder=folder, digest="0" * 64, inputs=inputs, outputs=outputs)


def run(stage: Prune, given: Artifact, folder: Path, seed: int = 0) -> Outcome:
    """Run the stage in a folder of its own."""

    def no_data() -> None:
        raise AssertionError("magnitude pruning reads no data")

    folder.mkdir()
    return stage.run(given, Context(folder, seed, Target(), given, no_data))  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_written_network_is_the_reported_one(tmp_path: Path, criterion: str, allocation: str) -> None:
    """Every combination writes a network of the stated widths, operations and parameters; pruning goes on from it."""
    stage = Prune(kind="prune", ratio=0.5, criterion=criterion, allocation=allocation, align=4)
    outcome = run(stage, original(tmp_path), tmp_path / "once")
    network = load_network(artifact(tmp_path / "once"))
    changed = json.loads(json.dumps(outcome.changed))
    assert changed["widths"]["stem"] == {"before": 16, "after": network.stem.out_channels}
    assert network.stem.out_channels % 4 == network.block[0].out_channels % 4 == 0
    cost = count(network, torch.zeros(1, 1, 6, 6))
    assert (changed["macs"]["after"], changed["parameters"]["after"]) == (cost.macs, cost.parameters)
    assert cost.macs < 0.6 * changed["macs"]["before"]
    assert changed["channels"]["before"] == 40
    assert 16 <= changed["channels"]["after"] <= 24
    assert changed["certificate"]["max_error"] <= 1e-9 * changed["certificate"]["scale"]
    assert (outcome.form, outcome.outputs) == ("torch", (TensorSpec(name="y", shape=(-1, 3)),))
    run(stage, artifact(tmp_path / "once"), tmp_path / "twice")
    assert load_network(artifact(tmp_path / "twice")).stem.out_channels < network.stem.out_channels
    edits = json.loads((tmp_path / "twice" / "network.json").read_text())["edits"]
    assert [edit["kind"] for edit in edits] == ["prune", "prune"]


def test_what_stays_whole_has_a_reason(tmp_path: Path) -> None:
    """Layers named in keep, classes, and layers that an operator fixes are listed; the gate feeds a mean."""
    outcome = run(Prune(kind="prune", ratio=0.5, keep=("block.0",)), original(tmp_path), tmp_path / "pruned")
    assert outcome.changed["kept_whole"] == {
        "aten.mean in the network mixes or picks channels": ["gate"],
        "output of the network": ["fc"],
        "named in keep": ["block.0"],
    }
    assert set(outcome.changed["widths"]) == {"stem"}


def test_keep_names_any_layer_of_a_group(tmp_path: Path) -> None:
    """The residual sum couples stem and block.3: naming one keeps both. Layers that are whole anyway may be named."""
    outcome = run(Prune(kind="prune", ratio=0.5, keep=("*.3", "fc")), original(tmp_path), tmp_path / "pruned")
    assert set(outcome.changed["widths"]) == {"block.0"}


def test_the_result_depends_on_the_seed_only_where_it_is_random(tmp_path: Path) -> None:
    """The same seed removes the same channels; another one others, for `random` alone."""
    given = original(tmp_path)
    plans = {}
    for criterion in ("random", "l2"):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            run(Prune(kind="prune", ratio=0.5, criterion=criterion), given, tmp_path / f"{criterion}{name}", seed)
            plans[criterion, name] = (tmp_path / f"{criterion}{name}" / "network.json").read_text()
    assert plans["random", "a"] == plans["random", "b"] != plans["random", "c"]
    assert plans["l2", "a"] == plans["l2", "b"] == plans["l2", "c"]


def test_a_pattern_without_a_layer_lists_the_groups(tmp_path: Path) -> None:
    """A typing error in keep must not prune what was meant to stay."""
    with pytest.raises(InputError, match=r"keep: found 'steam', which matches no layer\. Groups: stem, block\.0"):
        run(Prune(kind="prune", ratio=0.5, keep=("steam",)), original(tmp_path), tmp_path / "pruned")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ratio": 0.01}, "Raise ratio"),
        ({"align": 32}, "no wider than align 32: stem, block.0"),
        ({"keep": ("*",)}, "keep"),
    ],
)
def test_removing_nothing_is_an_error(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    """The message says why, and nothing is written."""
    stage = Prune.model_validate({"kind": "prune", "ratio": 0.5, **settings})
    with pytest.raises(StageError, match=f"would remove nothing.*{reason}"):
        run(stage, original(tmp_path), tmp_path / "pruned")
    assert not list((tmp_path / "pruned").iterdir())


def test_a_free_image_size_is_refused(tmp_path: Path) -> None:
    """Only the batch may be dynamic."""
    with pytest.raises(InputError, match=r"one input of fixed size beside the batch; found x \(-1, 1, -1, -1\)"):
        run(Prune(kind="prune", ratio=0.5), original(tmp_path, shape=(-1, 1, -1, -1)), tmp_path / "pruned")


@pytest.mark.parametrize(
    "wrong", [{"ratio": 0}, {"ratio": 1}, {"align": 0}, {"floor": 1}, {"criterion": "best"}, {"x": 1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    """Ratios lie strictly between 0 and 1, and unknown keys are errors."""
    with pytest.raises(ValidationError):
        Prune.model_validate({"kind": "prune", "ratio": 0.5, **wrong})


def test_every_knob_is_described() -> None:
    """The description of a field is its only documentation."""
    fields = {name: field for name, field in Prune.model_fields.items() if name != "kind"}
    assert all(len(str(field.description)) > 20 for field in fields.values())
    assert (Prune(kind="prune", ratio=0.5).criterion, Prune(kind="prune", ratio=0.5).allocation) == ("l2", "global")
    assert (Prune(kind="prune", ratio=0.5).consumes, Prune.revision) == ({"torch"}, 1)
