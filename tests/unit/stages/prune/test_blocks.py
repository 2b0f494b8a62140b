"""Whole residual blocks leave: those that change their input least, as many as the aim takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline.compress.pruning.depth import residual_blocks
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import Context, Target
from pipeline.data.arrays import image_classifier
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, write_original
from pipeline.stages.prune import Prune

if TYPE_CHECKING:
    from pathlib import Path

DEFINITION = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return x + self.conv(x)


def build(blocks=4):
    return nn.Sequential(nn.Conv2d(1, 8, 1), *(Block() for _ in range(blocks)), nn.Flatten(), nn.Linear(32, 2))
"""
NOISE = Split(np.random.default_rng(0).integers(0, 256, (16, 1, 2, 2), dtype=np.uint8), np.zeros(16, dtype=np.int64))
DATA = Dataset("noise", ("a", "b"), Normalisation((0.5,), (0.25,)), NOISE, NOISE, NOISE)


def original(folder: Path, blocks: int = 4) -> Artifact:
    """Write a network whose block 2 does nothing and whose block 4 does little."""
    (folder / "model.py").write_text(DEFINITION)
    (folder / "original").mkdir()
    torch.manual_seed(0)
    model: Any = build_network(folder / "model.py", {"blocks": blocks})
    for index, factor in ((2, 0.0), (4, 0.01)) if blocks else ():
        for parameter in model[index].parameters():
            parameter.data.mul_(factor)
    write_original(folder / "original", model, folder / "model.py", {"blocks": blocks})
    return at(folder / "original")


def at(folder: Path) -> Artifact:
    """Return the artifact that lies in a folder."""
    inputs, outputs = (TensorSpec(name="x", shape=(-1, 1, 2, 2)),), (TensorSpec(name="y", shape=(-1, 2)),)
    return Artifact(form="torch", folder=folder, digest="", inputs=inputs, outputs=outputs)


def run(given: Artifact, folder: Path, **settings: object) -> dict[str, Any]:
    """Prune blocks in a new folder and return what changed."""
    folder.mkdir()
    stage = Prune.model_validate({"kind": "prune", "granularity": "blocks", "images": 16, **settings})
    return dict(stage.run(given, Context(folder, 0, Target(), given, lambda: image_classifier(DATA))).changed)


def test_the_idle_blocks_leave_first(tmp_path: Path) -> None:
    """Half of four blocks: the one that does nothing and the one that does little; outputs hardly change."""
    given = original(tmp_path)
    changed = run(given, tmp_path / "p", ratio=0.5)
    assert changed["removed"] == ["2.conv", "4.conv"]
    assert changed["blocks"] == {"before": 4, "after": 2}
    assert changed["influence"]["2.conv"] == pytest.approx(0, abs=1e-6)
    pruned = load_network(at(tmp_path / "p"))
    images = torch.randn(5, 1, 2, 2)
    assert torch.allclose(pruned(images), load_network(given)(images), atol=0.02)
    assert not [name for name, _ in pruned.named_parameters() if name.startswith(("2.", "4."))]
    assert changed["certificate"]["max_error"] <= 1e-9 * changed["certificate"]["scale"]


@pytest.mark.parametrize("cost", ["macs", "parameters", "size"])
def test_a_target_takes_as_many_blocks_as_it_needs(tmp_path: Path, cost: str) -> None:
    """Each block has 256 of the 1,120 operations, or 72 of the 370 values: two leave for 65 %."""
    changed = run(original(tmp_path), tmp_path / "p", target={cost: 0.65})
    assert changed["removed"] == ["2.conv", "4.conv"]
    reached = 608 / 1120 if cost == "macs" else 226 / 370
    assert changed["target"] == {"cost": cost, "asked": 0.65, "reached": pytest.approx(reached)}


def test_blocks_can_be_kept_by_name_or_by_layer(tmp_path: Path) -> None:
    """What would leave first stays, and the next of the order leave."""
    removed = run(original(tmp_path), tmp_path / "p", ratio=0.5, keep=["2.*"])["removed"]
    assert removed[0] == "4.conv"
    assert removed[1] in {"1.conv", "3.conv"}


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"ratio": 0.01}, StageError, r"ratio 0\.01 of 4 residual blocks, of which 4 may be removed, removes none"),
        ({"target": {"macs": 0.05}}, InputError, r"0\.05 of the macs cannot be reached.*all 4 that.* 0\.086 are left"),
        ({"ratio": 0.5, "keep": ["conv9"]}, InputError, "keep: found 'conv9'"),
    ],
)
def test_an_aim_that_cannot_be_reached_is_refused(
    tmp_path: Path, settings: dict[str, object], error: type[Exception], said: str
) -> None:
    """The message says what is in the way."""
    with pytest.raises(error, match=said):
        run(original(tmp_path), tmp_path / "p", **settings)


def test_a_network_without_blocks(tmp_path: Path) -> None:
    """There is nothing that could leave."""
    with pytest.raises(InputError, match="No residual block was found"):
        run(original(tmp_path, blocks=0), tmp_path / "p", ratio=0.5)


class Attending(torch.nn.Module):
    """A layer of a transformer, whose reshape states the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.wide, self.narrow = torch.nn.Linear(8, 8), torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, 4, 8] for [N, 4, 8]."""
        heads = self.mix(x).reshape(x.shape[0], 4, 2, 4).transpose(1, 2)
        x = x + (heads @ heads.transpose(2, 3) @ heads).transpose(1, 2).reshape(x.shape[0], 4, 8)
        return x + self.narrow(self.wide(x).relu())


def test_attention_is_a_block() -> None:
    """The batch's size comes from the input itself, and not by way of the shortcut."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), Attending(), torch.nn.Linear(8, 2)).eval()
    blocks = residual_blocks(capture_graph(model, (torch.randn(2, 4, 8),)))
    assert [block.layers for block in blocks] == [("1.mix",), ("1.narrow", "1.wide")]
