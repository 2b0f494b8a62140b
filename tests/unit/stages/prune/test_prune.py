"""Prune writes a smaller network that loads again, and says what it did and what it left alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pipeline.compress.pruning.cost import count_cost
from pipeline.core.artifact import TensorSpec
from pipeline.network.stored import load_network
from tests.unit.stages.prune_networks import DATA, artifact, original, prune, run, widths

if TYPE_CHECKING:
    from pathlib import Path


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
    cost = count_cost(network, torch.zeros(1, 1, 6, 6))
    assert (changed["macs"]["after"], changed["parameters"]["after"]) == (cost.macs, cost.parameters)
    assert cost.macs < 0.6 * changed["macs"]["before"]
    assert changed["channels"] == {"before": 40, "after": stream + inner}
    assert changed["certificate"]["max_error"] <= 1e-9 * changed["certificate"]["scale"]
    assert changed["certificate"]["modes"] == ["evaluation", "training"]
    assert "one step tried" in changed["certificate"]["training"]
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


@pytest.mark.parametrize("cost", ["macs", "parameters"])
def test_the_least_score_is_lost_for_a_cost(tmp_path: Path, cost: str) -> None:
    """A knapsack meets a target within 1 %, and the record says so."""
    outcome = run(prune(target={cost: 0.6}, allocation="knapsack", align=1), original(tmp_path), tmp_path / "pruned")
    assert outcome.changed["target"] == {"cost": cost, "asked": 0.6, "reached": pytest.approx(0.6, rel=0.01)}
