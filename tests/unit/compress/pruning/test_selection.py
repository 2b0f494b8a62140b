"""Selection: patterns meet groups, constraints follow from rules, and the right allocation decides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compress.pruning.allocation import GroupConstraint
from pipeline.compress.pruning.graph import ChannelGraph, Frozen, Group, Member, trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.samples import Samples
from pipeline.compress.pruning.selection import (
    GroupLimit,
    PruneAmount,
    TracedNetwork,
    select_channels,
    settings_by_group,
    traced_network,
)
from pipeline.core.errors import InputError
from tests.defaults import rules

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph.capture import CapturedGraph


def group(name: str, width: int, channels: int = 1) -> Group:
    """Return a group of one layer, each class with so many channels."""
    positions = np.arange(width * channels).reshape(width, channels)
    return Group(name, width, (Member(f"{name}.weight", 0, positions, consumes=False),), ())


GRAPH = ChannelGraph(
    (group("block.qkv", 4, 8), group("block.up", 48), group("stem", 32)),
    (Frozen("head.weight", 0, "output of the network", consumes=False),),
    {"block.qkv.weight": (32, 8), "block.up.weight": (48, 8), "stem.weight": (32, 8), "head.weight": (3, 8)},
    {},
)


def resolved(**changes: Any) -> TracedNetwork:  # noqa: ANN401 - any rule
    """Return the rules matched with the graph above; what is tested does not look at the captured network."""
    return traced_network(cast("CapturedGraph", None), GRAPH, rules(criterion="l1", **changes))


def test_keep_takes_whole_groups_out() -> None:
    """A pattern names groups; a layer that is whole anyway may be named."""
    found = resolved(keep=("block.*", "head"))
    assert found.unpruned == {"block.qkv", "block.up"}
    assert [each.name for each in found.open.groups] == ["stem"]
    assert found.wide == {"stem": 32}


def test_channels_are_counted_where_some_may_leave() -> None:
    """Groups no wider than their grid do not count; neither do those that are kept."""
    assert resolved(align=32).channels_model().cost({}) == 48
    assert resolved(keep=("stem",)).channels_model().cost({"block.up": 8}) == 8


def test_heads_have_no_grid_of_channels() -> None:
    """Classes of several channels may leave one by one; the rest keeps the grid."""
    found = resolved(heads=True).constraints
    assert found.of("block.qkv") == GroupConstraint(0.1, 1)
    assert found.of("block.up") == GroupConstraint(0.1, 8)
    assert resolved().constraints.of("block.qkv") == GroupConstraint(0.1, 8)


def test_limits_change_what_they_name() -> None:
    """The last pattern that names a group holds; what it leaves out stays as it is."""
    limits = {"block.*": GroupLimit(floor=0.5), "block.up": GroupLimit(align=16, max_ratio=0.25)}
    found = resolved(heads=True, limits=limits).constraints
    assert found.of("block.qkv") == GroupConstraint(0.5, 1)
    assert found.of("block.up") == GroupConstraint(0.1, 16, 0.25)
    assert found.of("stem") == GroupConstraint(0.1, 8)


def test_unknown_names_show_the_nearest() -> None:
    """The key and the nearest names are in the message; layers without channels to remove have no settings."""
    with pytest.raises(InputError, match=r"keep: found 'blok\.up'.*Nearest: block\.up"):
        resolved(keep=("blok.up",))
    with pytest.raises(InputError, match=r"constraints: found 'zzz'.*Nearest: block\.qkv, block\.up, stem$"):
        resolved(limits={"zzz": GroupLimit(align=4)})
    with pytest.raises(InputError, match="rates: found 'head'"):
        settings_by_group(GRAPH, "rates", {"head": 0.5})
    assert settings_by_group(GRAPH, "rates", {"*": 0.5, "stem": 0.25})["stem"] == 0.25


@pytest.fixture
def network() -> TracedNetwork:
    """Return a captured network of two groups, of widths 8 and 16; the first layer's weights are the larger."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    captured = capture_graph(model, (torch.zeros(2, 4),))
    return traced_network(captured, trace_channels(captured), rules(criterion="l1", normalise="none", align=1))


def with_rules(network: TracedNetwork, **changes: object) -> TracedNetwork:
    """Return the network under other rules."""
    return traced_network(network.captured, network.graph, replace(network.rules, **changes))  # type: ignore[arg-type]


class Judged(Samples):
    """Gives networks an accuracy by their widths, without images."""

    def __init__(self, value: dict[int, float]) -> None:
        """Take the accuracy by the width of the first layer; 0 for any other."""
        super().__init__(lambda: pytest.fail("no data here"), 1, 1, 0)
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "seen", [])

    @property
    def is_share(self) -> bool:
        """Accuracies are shares."""
        return True

    def score(self, model: nn.Module, *, renew: bool) -> float:
        """Return the accuracy of the width; remember whether statistics were to be renewed."""
        self.seen.append(renew)  # type: ignore[attr-defined]
        width = len(model.get_parameter("0.weight"))
        return float(self.value.get(width, 0.0))  # type: ignore[attr-defined]


def kept_widths(network: TracedNetwork, amount: PruneAmount, judge: Samples | None = None) -> list[int]:
    """Return how many classes stay of each group."""
    return [len(kept) for kept in select_channels(network, amount, judge or Judged({})).kept.values()]


def test_each_allocation_decides(network: TracedNetwork) -> None:
    """Half everywhere; one ranking, of unequal norms, takes more of the layer with small ones; rates by group."""
    assert kept_widths(with_rules(network, allocation="uniform"), PruneAmount(ratio=0.5)) == [4, 8]
    first, second = kept_widths(network, PruneAmount(ratio=0.5))
    assert first + second == 12
    assert first != 4
    rated = with_rules(network, allocation="rates")
    assert kept_widths(rated, PruneAmount(rates={"0": 0.25, "2": 0.75})) == [6, 4]
    assert kept_widths(rated, PruneAmount(rates={"2": 0.5})) == [8, 8]


def test_a_knapsack_loses_the_least_score_for_a_number_of_channels_or_a_cost(network: TracedNetwork) -> None:
    """A ratio is a number of channels, half of 24, so that the twelve lowest scores leave, as in a global ranking."""
    rules = with_rules(network, allocation="knapsack")
    assert kept_widths(rules, PruneAmount(ratio=0.5)) == kept_widths(network, PruneAmount(ratio=0.5))
    model = network.cost_model("macs")
    found = kept_widths(rules, PruneAmount(cost=("macs", 0.5 * model.cost({}))))
    assert model.cost(dict(zip(network.widths, found, strict=True))) == pytest.approx(0.5 * model.cost({}), rel=0.05)


def test_normalisation_is_the_criterions_own_unless_told(network: TracedNetwork) -> None:
    """l1 asks for means; with ranks every group loses the same share."""
    means, own, ranks = (
        kept_widths(with_rules(network, normalise=how), PruneAmount(ratio=0.5)) for how in ("mean", None, "rank")
    )
    assert means == own
    assert ranks == [4, 8]


@pytest.mark.parametrize("cost", ["macs", "parameters", "size"])
def test_costs_are_met(network: TracedNetwork, cost: Any) -> None:  # noqa: ANN401 - a name of a cost
    """Multiply-accumulates are those of the three layers, parameters have biases, bytes are four each."""
    model = network.cost_model(cost)
    whole = {"macs": 4 * 8 + 8 * 16 + 16 * 2, "parameters": 40 + 144 + 34, "size": 4 * 218}[cost]
    assert model.cost({}) == whole
    chosen = select_channels(network, PruneAmount(cost=(cost, 0.5 * whole)), Judged({})).kept
    assert model.cost({name: len(kept) for name, kept in chosen.items()}) == pytest.approx(0.5 * whole, rel=0.05)


def test_the_best_candidate_wins_and_the_planned_one_wins_ties(network: TracedNetwork) -> None:
    """All are judged with renewed statistics, and what they were given is in the details."""
    rules = with_rules(network, candidates=4, allocation="uniform")
    even = Judged({})
    assert kept_widths(rules, PruneAmount(ratio=0.5), even) == [4, 8]
    assert even.seen == [True] * 5  # type: ignore[attr-defined]
    better = select_channels(
        rules, PruneAmount(ratio=0.5), Judged({4: 0.1, 7: 0.2, 6: 0.2, 5: 0.2, 3: 0.2, 2: 0.2, 8: 0.2, 1: 0.2})
    )
    assert better.details["candidates"]["planned"] == 0.1
    assert better.details["candidates"]["chosen"] == "drawn"
    assert len(better.kept["0"]) != 4
    assert sum(len(kept) for kept in better.kept.values()) == 12


def test_sensitivity_limits_what_a_group_loses(network: TracedNetwork) -> None:
    """The first layer may lose a quarter at most: at half of it accuracy falls by more than the tolerance."""
    judge = Judged({8: 0.9, 7: 0.9, 6: 0.85, 5: 0.5, 4: 0.5})
    rules = with_rules(network, allocation="sensitivity", tolerance=0.1)
    found = select_channels(rules, PruneAmount(ratio=0.5), judge)
    assert len(found.kept["0"]) >= 6
    assert found.details["sensitivity"]["0"]["limit"] == 0.25
    assert found.details["sensitivity"]["2"]["limit"] == 0.875
    assert judge.seen[0] is False  # type: ignore[attr-defined]
