"""Schedules of pruning: how much leaves in each step, and that a killed run ends with the same bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError, StageError
from pipeline.core.runtimes import FORMS
from pipeline.core.stage import Context, SilentProgress, Target
from pipeline.data.arrays import image_classifier
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, write_original
from pipeline.stages.prune import Prune
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from pathlib import Path

DEFINITION = """
from torch import nn


class Chain(nn.Sequential):
    def __init__(self):
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))


def build():
    return Chain()
"""
TRAINING = {"epochs": 2, "batch": 16, "optimizer": "sgd", "learning_rate": 0.05}


def split(count: int, seed: int) -> Split:
    """Return images whose brightness tells the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = generator.integers(0, 120, (count, 1, 6, 6)) + 60 * labels[:, None, None, None]
    return Split(pixels.astype(np.uint8), labels.astype(np.int64))


DATA = Dataset("toy", ("a", "b", "c"), Normalisation((0.5,), (0.25,)), split(96, 0), split(48, 1), split(12, 2))


def original(folder: Path) -> Artifact:
    """Write the network as a torch artifact."""
    (folder / "model.py").write_text(DEFINITION)
    place = folder / "original"
    place.mkdir()
    torch.manual_seed(0)
    write_original(place, build_network(folder / "model.py", {}), folder / "model.py", {})
    return at(place)


def at(folder: Path) -> Artifact:
    """Return the artifact that lies in a folder."""
    inputs, outputs = (TensorSpec(name="x", shape=(-1, 1, 6, 6)),), (TensorSpec(name="y", shape=(-1, 3)),)
    return Artifact(form="torch", folder=folder, digest="", inputs=inputs, outputs=outputs)


def run(given: Artifact, folder: Path, progress: SilentProgress | None = None, **settings: object) -> dict[str, Any]:
    """Prune to half of the channels in a folder, new or of a killed run, and return what changed."""
    folder.mkdir(exist_ok=True)
    aim = {} if {"target", "rates"} & settings.keys() else {"ratio": 0.5}
    stage = Prune.model_validate({"kind": "prune", "align": 1, "images": 32, **aim, **settings})
    context = Context(folder, 0, Target(), given, lambda: image_classifier(DATA), progress=progress or SilentProgress())
    changed: dict[str, Any] = json.loads(json.dumps(stage.run(given, context).changed))
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted(FORMS["torch"].files)
    return changed


def schedule(**settings: object) -> dict[str, object]:
    """Return a schedule with a short training."""
    return {**TRAINING, **settings}


def widths(folder: Path) -> list[int]:
    """Return the widths of the two convolutions of a written network."""
    network: Any = load_network(at(folder))
    return [network[0].out_channels, network[3].out_channels]


@pytest.mark.parametrize(("shape", "left"), [("geometric", [16 * 0.5**0.5 + 12 * 0.5**0.5, 14]), ("linear", [21, 14])])
def test_iterative_steps_come_down_to_the_ratio(tmp_path: Path, shape: str, left: list[float]) -> None:
    """Channels of the original that are left after each step, rounded; then a training of its own."""
    changed = run(original(tmp_path), tmp_path / "p", schedule=schedule(steps=2, shape=shape), allocation="uniform")
    assert [step["channels"] for step in changed["steps"]] == pytest.approx(left, abs=1)
    assert widths(tmp_path / "p") == [8, 6]
    assert changed["widths"] == {"0": {"before": 16, "after": 8}, "3": {"before": 12, "after": 6}}
    assert all(step["validation_accuracy"] > 0.3 for step in changed["steps"])


def test_iterative_steps_come_down_to_a_target(tmp_path: Path) -> None:
    """The cost is a fraction of the original's, not of what each step finds."""
    changed = run(original(tmp_path), tmp_path / "p", target={"macs": 0.25}, schedule=schedule(steps=3))
    assert changed["target"]["reached"] == pytest.approx(0.25, rel=0.05)  # of few channels, as near as widths allow
    assert changed["macs"]["after"] / changed["macs"]["before"] == pytest.approx(changed["target"]["reached"])


def test_iterative_rates_are_of_the_original(tmp_path: Path) -> None:
    """Two steps of a rate of three quarters leave a quarter; the floor is one of the original as well."""
    changed = run(
        original(tmp_path),
        tmp_path / "p",
        allocation="rates",
        rates={"0": 0.75, "3": 0.5},
        floor=0.2,
        schedule=schedule(steps=2),
    )
    assert widths(tmp_path / "p") == [4, 6]
    assert [step["channels"] for step in changed["steps"]] == [8 + 8, 4 + 6]


def test_floors_are_of_the_original(tmp_path: Path) -> None:
    """A floor of 0.5 holds over all steps: without it three steps could leave an eighth."""
    settings = {"floor": 0.5, "constraints": {"3": {"floor": 0.75}}, "ratio": 0.35}
    run(original(tmp_path), tmp_path / "p", schedule=schedule(steps=3, epochs=0), **settings)
    first, second = widths(tmp_path / "p")
    assert first >= 8
    assert second >= 9
    assert first + second == pytest.approx(28 * 0.65, abs=1)


def test_layerwise_chooses_once_and_removes_in_forward_order(tmp_path: Path) -> None:
    """As many trainings as groups; the channels are those that the whole network's scores choose."""
    given = original(tmp_path)
    changed = run(given, tmp_path / "layerwise", criterion="hrank", schedule=schedule(method="layerwise"))
    run(given, tmp_path / "once", criterion="hrank")
    steps = [step["channels"] for step in changed["steps"]]
    assert steps == [28 - (16 - widths(tmp_path / "once")[0]), sum(widths(tmp_path / "once"))]
    plans = [json.loads((tmp_path / name / "network.json").read_text())["edits"] for name in ("layerwise", "once")]
    assert min(plans[0][0]["keep"]).startswith("0.")
    for tensor in ("0.bias", "3.bias"):
        apart = next(edit["keep"][tensor] for edit in plans[0] if tensor in edit["keep"])
        assert apart == plans[1][0]["keep"][tensor]
    assert "tie_share" in changed["criterion"]


def test_soft_pruning_trains_with_zeros_and_removes_them(tmp_path: Path) -> None:
    """What leaves were zeros: the smaller network is as good on validation images as the trained one was."""
    changed = run(original(tmp_path), tmp_path / "p", schedule=schedule(method="soft", epochs=4), allocation="uniform")
    assert widths(tmp_path / "p") == [8, 6]
    assert len(changed["steps"]) == 1
    assert changed["steps"][0]["channels"] == 28
    edits = json.loads((tmp_path / "p" / "network.json").read_text())["edits"]
    assert len(edits) == 1


@pytest.mark.parametrize("method", ["iterative", "layerwise", "soft"])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, method: str) -> None:
    """Killed twice, within trainings and between removals: what was finished is found again, all files are equal."""
    given = original(tmp_path)
    settings = {"schedule": schedule(method=method, ema=0.5, steps=2), "criterion": "taylor", "batch": 16}
    whole = run(given, tmp_path / "whole", **settings)
    notes = []
    for reports in (12, 7):  # a training has two epochs of six steps
        progress = Stops(reports)
        with pytest.raises(KeyboardInterrupt):
            run(given, tmp_path / "killed", progress, **settings)
        notes += progress.notes
    last = Stops(10_000)
    assert run(given, tmp_path / "killed", last, **settings) == whole
    assert any("resumed" in note and "after epoch 1 of 2" in note for note in notes + last.notes)
    for name in FORMS["torch"].files:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_schedule_that_removes_nothing_is_an_error(tmp_path: Path) -> None:
    """One channel in a hundred of 28 is none."""
    with pytest.raises(StageError, match=r"ratio 0\.01.* would remove nothing"):
        run(original(tmp_path), tmp_path / "p", ratio=0.01, schedule=schedule(steps=1, epochs=0))


@pytest.mark.parametrize("method", ["iterative", "soft"])
def test_an_aim_out_of_reach_is_refused_before_any_training(tmp_path: Path, method: str) -> None:
    """The floors forbid it whatever the scores will be."""
    with pytest.raises(InputError, match="cannot be reached"):
        run(original(tmp_path), tmp_path / "p", target={"macs": 0.01}, schedule=schedule(method=method))
    assert not list((tmp_path / "p").iterdir())
