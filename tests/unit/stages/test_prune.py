"""Prune writes a smaller network that loads again, and says what it did and what it left alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.compress.cost import count
from pipeline.compress.importance.criteria import CRITERIA
from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import Context, Outcome, Target
from pipeline.network import load_network, write_original
from pipeline.stages.prune import Prune
from pipeline.training_config import PruneSchedule
from pipeline.zoo import build

if TYPE_CHECKING:
    from pathlib import Path

DEFINITION = """
from torch import nn


class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        inner = nn.Conv2d(width, 24, 3, padding=1)
        self.block = nn.Sequential(inner, nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, width, 1))
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        return self.fc(x.mean((2, 3)))


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.out = nn.Linear(16 * 36, 3)

    def forward(self, x):
        return self.out(self.conv(x).relu().view(-1, 16 * 36))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 32, 2, 2)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.project = nn.Linear(32, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, -1, 8)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Alone(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc(x.flatten(1) * 2 if x.sum() > 0 else x.flatten(1))


def build(width=16, kind="Small"):
    return Small(width) if kind == "Small" else globals()[kind]()
"""


def original(folder: Path, kind: str = "Small", shape: tuple[int, ...] = (-1, 1, 6, 6)) -> Artifact:
    """Write the network as a torch artifact."""
    definition = folder / "model.py"
    definition.write_text(DEFINITION)
    place = folder / "original"
    place.mkdir()
    torch.manual_seed(0)
    write_original(place, build(definition, {"kind": kind}), definition, {"kind": kind})
    return artifact(place, shape)


def artifact(folder: Path, shape: tuple[int, ...] = (-1, 1, 6, 6)) -> Artifact:
    """Return the artifact that lies in a folder."""
    inputs, outputs = (TensorSpec(name="x", shape=shape),), (TensorSpec(name="y", shape=(-1, 3)),)
    return Artifact(form="torch", folder=folder, digest="0" * 64, inputs=inputs, outputs=outputs)


def split(images: int, seed: int) -> Split:
    """Return random images [N, 1, 6, 6]."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (images, 1, 6, 6), dtype=np.uint8)
    return Split(pixels, generator.integers(0, 3, images))


DATA = Dataset("noise", ("a", "b", "c"), Normalisation((0.5,), (0.25,)), split(40, 0), split(24, 1), split(8, 2))


def run(stage: Prune, given: Artifact, folder: Path, *, seed: int = 0, data: Dataset | None = None) -> Outcome:
    """Run the stage in a folder of its own; without data, looking at images fails the test."""

    def load() -> Dataset:
        assert data is not None, "this pruning reads no data"
        return data

    folder.mkdir()
    return stage.run(given, Context(folder, seed, Target(), given, load))


def prune(**settings: object) -> Prune:
    """Return a stage; half of the channels on a grid of 4 unless told otherwise."""
    aims = {"ratio", "target", "rates"} & settings.keys()
    return Prune.model_validate({"kind": "prune", "align": 4, **({} if aims else {"ratio": 0.5}), **settings})


def widths(folder: Path) -> tuple[int, int]:
    """Return the widths of the residual stream and of the block in a written network."""
    network: Any = load_network(artifact(folder))
    return network.stem[0].out_channels, network.block[0].out_channels


@pytest.mark.parametrize("criterion", ["l1", "group_l2", "random"])
@pytest.mark.parametrize("allocation", ["uniform", "global", "isomorphic"])
def test_the_written_network_is_the_reported_one(tmp_path: Path, criterion: str, allocation: str) -> None:
    """Every combination writes a network of the stated widths, operations and parameters; pruning goes on from it."""
    outcome = run(prune(criterion=criterion, allocation=allocation), original(tmp_path), tmp_path / "once")
    network = load_network(artifact(tmp_path / "once"))
    stream, inner = widths(tmp_path / "once")
    changed = json.loads(json.dumps(outcome.changed))
    assert changed["widths"] == {
        "stem.0": {"before": 16, "after": stream},
        "block.0": {"before": 24, "after": inner},
    }
    assert stream % 4 == inner % 4 == 0
    cost = count(network, torch.zeros(1, 1, 6, 6))
    assert (changed["macs"]["after"], changed["parameters"]["after"]) == (cost.macs, cost.parameters)
    assert cost.macs < 0.6 * changed["macs"]["before"]
    assert changed["channels"] == {"before": 40, "after": stream + inner}
    assert changed["certificate"]["max_error"] <= 1e-9 * changed["certificate"]["scale"]
    assert (changed["applied"], changed["criterion"]["name"]) == ("in place", criterion)
    assert (outcome.form, outcome.outputs) == ("torch", (TensorSpec(name="y", shape=(-1, 3)),))
    run(prune(criterion=criterion, allocation=allocation), artifact(tmp_path / "once"), tmp_path / "twice")
    assert widths(tmp_path / "twice")[0] < stream
    edits = json.loads((tmp_path / "twice" / "network.json").read_text())["edits"]
    assert [edit["kind"] for edit in edits] == ["prune", "prune"]


def test_uniform_is_half_of_everything(tmp_path: Path) -> None:
    """Half of 16 and of 24 channels stay, those with the largest group norm."""
    given = original(tmp_path)
    run(prune(criterion="group_l2", allocation="uniform"), given, tmp_path / "pruned")
    assert widths(tmp_path / "pruned") == (8, 12)
    network: Any = load_network(given)
    inner, norm, _, outer = network.block
    parts = (
        inner.weight.flatten(1),
        inner.bias[:, None],
        norm.weight[:, None],
        norm.bias[:, None],
        outer.weight[..., 0, 0].T,
    )
    norms = torch.cat(parts, dim=1).square().sum(1)
    plan = json.loads((tmp_path / "pruned" / "network.json").read_text())["edits"][0]["keep"]
    assert plan["block.0.bias"]["0"] == sorted(norms.argsort(descending=True)[:12].tolist())


def test_what_stays_whole_has_a_reason(tmp_path: Path) -> None:
    """Layers named in keep and outputs are listed."""
    outcome = run(prune(keep=["block.0"]), original(tmp_path), tmp_path / "pruned")
    assert outcome.changed["kept_whole"] == {"output of the network": ["fc"], "named in keep": ["block.0"]}
    assert set(outcome.changed["widths"]) == {"stem.0"}


def test_keep_names_any_layer_of_a_group(tmp_path: Path) -> None:
    """The residual sum couples stem and block.3: naming one keeps both. Layers that are whole anyway may be named."""
    outcome = run(prune(keep=["*.3", "fc"]), original(tmp_path), tmp_path / "pruned")
    assert set(outcome.changed["widths"]) == {"block.0"}


@pytest.mark.parametrize("cost", ["macs", "parameters", "size"])
def test_a_target_is_met_within_one_per_cent(tmp_path: Path, cost: str) -> None:
    """40 % of a cost are left, as counted on the network that was written."""
    outcome = run(prune(target={cost: 0.4}, align=1), original(tmp_path), tmp_path / "pruned")
    reached = outcome.changed["target"]
    assert reached == {"cost": cost, "asked": 0.4, "reached": pytest.approx(0.4, rel=0.01)}
    if cost != "size":
        counted = outcome.changed[cost]
        assert counted["after"] / counted["before"] == pytest.approx(reached["reached"])


def test_rates_by_pattern(tmp_path: Path) -> None:
    """Each group loses what the last pattern says that names it; groups without a rate stay whole."""
    run(prune(allocation="rates", rates={"*": 0.25, "block.0": "75%"}), original(tmp_path), tmp_path / "pruned")
    assert widths(tmp_path / "pruned") == (12, 8)  # 6 lies between 4 and 8: the wider


def test_constraints_by_pattern(tmp_path: Path) -> None:
    """A group's own grid, floor and limit hold in place of the stage's."""
    limits = {"block.*": {"align": 1, "max_ratio": 0.25}, "stem*": {"floor": 0.75}}
    run(prune(ratio=0.25, constraints=limits), original(tmp_path), tmp_path / "pruned")
    assert widths(tmp_path / "pruned") == (12, 18)


@pytest.mark.parametrize("criterion", ["hrank", "taylor", "bn_scale"])
def test_criteria_of_images_see_training_images(tmp_path: Path, criterion: str) -> None:
    """They look at as many as asked for; what they found besides the scores is in the record."""
    outcome = run(
        prune(criterion=criterion, images=32, batch=8, keep=["stem.0"]), original(tmp_path), tmp_path / "p", data=DATA
    )
    found = outcome.changed["criterion"]
    assert found.get("samples") == (None if criterion == "bn_scale" else 32)
    assert ("tie_share" in found) == (criterion == "hrank")
    assert outcome.changed["widths"]["block.0"]["after"] == 12


def test_thinet_rescales_what_stays(tmp_path: Path) -> None:
    """The consumer's weights make up for the channels that left, and the certificate is of the rescaled network."""
    given = original(tmp_path)
    outcome = run(prune(criterion="thinet", images=32, keep=["stem.0"]), given, tmp_path / "pruned", data=DATA)
    before: Any = load_network(given)
    after: Any = load_network(artifact(tmp_path / "pruned"))
    kept = json.loads((tmp_path / "pruned" / "network.json").read_text())["edits"][0]["keep"]["block.0.bias"]["0"]
    assert torch.equal(after.block[0].weight, before.block[0].weight[kept])
    factors = after.block[3].weight / before.block[3].weight[:, kept]
    assert factors[0].flatten().tolist() == pytest.approx(factors[5].flatten().tolist(), rel=1e-4)
    assert float((factors - 1).detach().abs().max()) > 0.01
    assert outcome.changed["certificate"]["max_error"] <= 1e-9 * outcome.changed["certificate"]["scale"]


def test_candidates_compete_with_the_planned_allocation(tmp_path: Path) -> None:
    """Random allocations of the same number of channels are judged, and the best of all is written."""
    outcome = run(prune(candidates=3, images=24, align=1), original(tmp_path), tmp_path / "pruned", data=DATA)
    found = outcome.changed["candidates"]
    assert len(found["drawn"]) == 3
    assert found["drawn"] == sorted(found["drawn"], reverse=True)
    assert found["chosen"] == ("planned" if found["planned"] >= found["drawn"][0] else "drawn")
    assert sum(widths(tmp_path / "pruned")) == 20


def test_sensitivity_limits_each_group(tmp_path: Path) -> None:
    """With a tolerance of all accuracy nothing is limited; the curves are in the record."""
    stage = prune(allocation="sensitivity", tolerance="100pt", images=24)
    outcome = run(stage, original(tmp_path), tmp_path / "pruned", data=DATA)
    curve = outcome.changed["sensitivity"]["block.0"]
    assert curve["widths"] == [24, 20, 16, 12, 8, 4]
    assert curve["limit"] == pytest.approx(20 / 24)
    assert all(0 <= accuracy <= 1 for accuracy in curve["accuracy"])


def test_a_forward_with_literal_sizes_is_rewritten(tmp_path: Path) -> None:
    """x.view(-1, 576) cannot lose channels in place: the result comes with a definition of its own, which loads."""
    given = original(tmp_path, "Fixed")
    outcome = run(prune(), given, tmp_path / "pruned")
    assert outcome.changed["applied"].startswith("rewritten: ")
    network = load_network(artifact(tmp_path / "pruned"))
    assert network(torch.zeros(3, 1, 6, 6)).shape == (3, 3)
    assert network.get_parameter("conv.weight").shape == (8, 1, 3, 3)
    again = run(prune(), artifact(tmp_path / "pruned"), tmp_path / "again")
    assert again.changed["widths"] == {"conv": {"before": 8, "after": 4}}


def test_heads_leave_whole(tmp_path: Path) -> None:
    """Half of four heads of eight channels each, although the grid is wider; else half of every head's channels."""
    given = original(tmp_path, "Attention")
    heads = run(prune(granularity="heads", keep=["embed"]), given, tmp_path / "heads")
    assert heads.changed["widths"] == {"qkv": {"before": 4, "after": 2}}
    assert heads.changed["applied"] == "in place"
    network = load_network(artifact(tmp_path / "heads"))
    assert network.get_parameter("qkv.weight").shape == (48, 32)
    channels = run(prune(keep=["embed"]), given, tmp_path / "channels")
    assert channels.changed["widths"] == {"qkv": {"before": 8, "after": 4}}


def test_statistics_over_fewer_channels_can_be_forbidden(tmp_path: Path) -> None:
    """A layer norm over fewer channels is reported where it is allowed, and keeps its channels where it is not."""
    given = original(tmp_path, "Attention")
    allowed = run(prune(), given, tmp_path / "allowed")
    frozen = run(prune(statistics="freeze"), given, tmp_path / "frozen")
    assert any("norm" in name for name in allowed.changed["statistics"])
    assert "embed" in allowed.changed["widths"]
    assert frozen.changed["statistics"] == []
    assert set(frozen.changed["widths"]) == {"qkv"}


def test_the_result_depends_on_the_seed_only_where_it_is_random(tmp_path: Path) -> None:
    """The same seed removes the same channels; another one others, for `random` alone."""
    given = original(tmp_path)
    plans = {}
    for criterion in ("random", "group_l2"):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            run(prune(criterion=criterion), given, tmp_path / f"{criterion}{name}", seed=seed)
            plans[criterion, name] = (tmp_path / f"{criterion}{name}" / "network.json").read_text()
    assert plans["random", "a"] == plans["random", "b"] != plans["random", "c"]
    assert plans["group_l2", "a"] == plans["group_l2", "b"] == plans["group_l2", "c"]


@pytest.mark.parametrize("key", ["keep", "rates", "constraints"])
def test_a_pattern_without_a_layer_shows_the_nearest(tmp_path: Path, key: str) -> None:
    """A typing error must not prune what was meant to stay."""
    settings: dict[str, object] = {
        "keep": {"keep": ["blok.0"]},
        "rates": {"allocation": "rates", "rates": {"blok.0": 0.5}},
        "constraints": {"constraints": {"blok.0": {"align": 1}}},
    }[key]  # type: ignore[assignment]
    with pytest.raises(InputError, match=rf"{key}: found 'blok\.0', which names no layer.*Nearest: block\.0"):
        run(prune(**settings), original(tmp_path), tmp_path / "pruned")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ratio": 0.01}, "Raise ratio"),
        ({"align": 32}, "no wider than align 32: stem.0, block.0"),
        ({"keep": ["*"]}, "named in keep: stem.0, block.0"),
        ({"allocation": "rates", "rates": {"stem.0": 0.01}}, "Raise ratio"),
    ],
)
def test_removing_nothing_is_an_error(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    """The message says why, and nothing is written."""
    with pytest.raises(StageError, match=f"would remove nothing.*{reason}"):
        run(prune(**settings), original(tmp_path), tmp_path / "pruned")
    assert not list((tmp_path / "pruned").iterdir())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ratio": 0.99, "align": 1}, r"ratio 0\.99 asks to remove 40 of 40 channels.*Lower ratio"),
        ({"target": {"macs": 0.001}}, "cannot be reached"),
        ({"target": {"macs": 0.75}, "align": 16}, "found no widths within 1% of .* macs.*Lower align"),
        ({"criterion": "hrank", "images": 41}, "images is 41, the training split has 40"),
        ({"criterion": "chip", "images": 8, "allocation": "rates", "rates": {"stem.0": 0.99}}, "Lower the rate"),
    ],
)
def test_an_aim_that_cannot_be_reached_is_refused(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    """The message says what is in the way."""
    with pytest.raises(InputError, match=reason):
        run(prune(**settings), original(tmp_path), tmp_path / "pruned", data=DATA)


def test_a_network_without_channels_to_remove_lists_the_reasons(tmp_path: Path) -> None:
    """A single layer has the classes on one side and the image on the other."""
    with pytest.raises(InputError, match=r"No channel of this network can be removed\. output of the network: fc"):
        run(prune(), original(tmp_path, "Alone"), tmp_path / "pruned")


def test_branches_on_values_are_refused(tmp_path: Path) -> None:
    """A forward that looks at its input's values cannot be captured; the message names the line."""
    with pytest.raises(InputError, match=r"cannot be exported.*definition\.py"):
        run(prune(), original(tmp_path, "Branches"), tmp_path / "pruned")


def test_a_free_image_size_is_refused(tmp_path: Path) -> None:
    """Only the batch may be dynamic."""
    with pytest.raises(InputError, match=r"fixed size beside the batch; found x \(-1, 1, -1, -1\)"):
        run(prune(), original(tmp_path, shape=(-1, 1, -1, -1)), tmp_path / "pruned")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ratio": 0}, "ratio between 0 and 1"),
        ({"ratio": 1}, "ratio between 0 and 1"),
        ({"ratio": 0.5, "align": 0}, "greater than or equal to 1"),
        ({"ratio": 0.5, "floor": 1}, "ratio between 0 and 1"),
        ({"ratio": 0.5, "criterion": "best"}, "'group_l2'"),
        ({"ratio": 0.5, "x": 1}, "not permitted"),
        ({}, "found no aim, allowed: one of ratio, target, rates"),
        ({"ratio": 0.5, "target": {"macs": 0.5}}, "found ratio and target, allowed: one of"),
        ({"ratio": 0.5, "allocation": "rates"}, "found allocation rates with ratio"),
        ({"rates": {"a": 0.5}}, "found allocation global with rates"),
        ({"rates": {"a": 0.5}, "allocation": "rates", "candidates": 2}, "candidates with ratio or target"),
        ({"target": {}}, "found 0 costs, allowed: one of macs, parameters, size"),
        ({"target": {"macs": 0.5, "size": 0.5}}, "found 2 costs"),
        ({"ratio": 0.5, "granularity": "blocks", "criterion": "l1"}, "found granularity blocks with criterion"),
        ({"ratio": 0.5, "schedule": {"method": "soft"}}, "epochs"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], said: str) -> None:
    """Ratios lie strictly between 0 and 1, unknown keys are errors, and there is one aim."""
    with pytest.raises(ValidationError, match=said):
        Prune.model_validate({"kind": "prune", **wrong})


def test_every_criterion_can_be_asked_for() -> None:
    """The names that a recipe may use are those of the table of criteria."""
    assert set(get_args(Prune.model_fields["criterion"].annotation)) == set(CRITERIA)


def test_every_knob_is_described() -> None:
    """The description of a field is its only documentation."""
    fields = {name: field for name, field in Prune.model_fields.items() if name != "kind"}
    assert all(len(str(field.description)) > 20 for field in fields.values())
    assert (prune().criterion, prune().allocation, prune().normalise) == ("l2", "global", None)
    assert (prune().consumes, Prune.revision) == ({"torch"}, 2)


def test_a_teacher_of_the_schedule_counts_by_its_files(tmp_path: Path) -> None:
    """Files of a teacher are part of the stage's key."""
    for name in ("model.py", "weights.pt"):
        (tmp_path / name).touch()
    teacher = {"definition": tmp_path / "model.py", "weights": tmp_path / "weights.pt"}
    schedule = PruneSchedule.model_validate({"epochs": 1, "distill": {"from": teacher}})
    assert prune(schedule=schedule).files() == (tmp_path / "model.py", tmp_path / "weights.pt")
    assert prune().files() == ()
