"""What holds for every network, whatever its blocks and whichever channels leave.

SECATEUR_EXAMPLES=200 tries as many networks, other ones each time; the default is a few, always the same.
"""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.compress.pruning.cost import count_cost, macs_model, parameters_model
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.prune import PrunedNetwork, prune_channels
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.surgery import PrunePlan, apply_plan
from pipeline.compress.training.inference import forward_outputs
from tests.properties.networks import SIZE, Network, networks
from tests.unit.compress.pruning.networks import check_training, masked_error

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph.types import ChannelGraph

WANTED = os.environ.get("SECATEUR_EXAMPLES")
EXAMPLE = (torch.randn(2, 3, SIZE, SIZE),)
SLOW = settings(
    max_examples=int(WANTED or 10),
    derandomize=WANTED is None,
    deadline=None,
    database=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=list(HealthCheck),
)


def structure(graph: ChannelGraph) -> list[tuple[str, int, list[tuple[str, int, list[list[int]]]]]]:
    """Return names, widths and all positions of the groups."""
    return [
        (group.name, group.width, [(each.tensor, each.dim, each.positions.tolist()) for each in group.members])
        for group in graph.groups
    ]


def chosen(graph: ChannelGraph, data: st.DataObject) -> dict[str, list[int]]:
    """Draw which classes of each group stay: at least one."""
    seed = data.draw(st.integers(0, 2**16), label="seed")
    shares = np.random.default_rng(seed)
    kept = {}
    for group in graph.groups:
        count = int(shares.integers(1, group.width + 1))
        kept[group.name] = sorted(shares.choice(group.width, count, replace=False).tolist())
    return kept


def once(model: nn.Module, data: st.DataObject) -> tuple[ChannelGraph, dict[str, list[int]], PrunedNetwork]:
    """Prune a network by random choices, with its certificate."""
    captured = capture_graph(model, EXAMPLE)
    graph = trace_channels(captured)
    kept = chosen(graph, data)
    return graph, kept, prune_channels(captured, graph, model, kept)


@SLOW
@given(model=networks(), data=st.data())
def test_pruning_is_exact_cheaper_and_can_be_repeated(model: Network, data: st.DataObject) -> None:
    """The result equals the masked original, costs what was predicted and never more, trains, and is pruned again."""
    names = dict(model.named_parameters())
    before = count_cost(model, EXAMPLE)
    graph, kept, pruned = once(model, data)
    event("rewritten" if pruned.rewritten else "in place")
    widths = {name: len(classes) for name, classes in kept.items()}
    cost = count_cost(pruned.model, EXAMPLE)
    assert cost.macs == macs_model(graph).cost(widths) <= before.macs
    assert cost.parameters == parameters_model(graph, names).cost(widths) <= before.parameters
    if not pruned.certificate.statistics:
        assert masked_error(model, pruned, EXAMPLE) < 1e-9
    assert [each.shape for each in forward_outputs(pruned.model, EXAMPLE)] == [
        each.shape for each in forward_outputs(model, EXAMPLE)
    ]
    check_training(pruned.model, EXAMPLE)
    _, _, again = once(pruned.model, data)
    assert count_cost(again.model, EXAMPLE).macs <= cost.macs


@SLOW
@given(model=networks(), data=st.data())
def test_the_order_of_channels_means_nothing(model: Network, data: st.DataObject) -> None:
    """With the classes of every group in another order, in all of their tensors, the network is the same function."""
    graph = trace_channels(capture_graph(model, EXAMPLE))
    order = np.random.default_rng(data.draw(st.integers(0, 2**16), label="seed"))
    keep: dict[str, dict[int, tuple[int, ...]]] = {}
    for group in graph.groups:
        classes = order.permutation(group.width)
        for member in group.members:
            dims = keep.setdefault(member.tensor, {})
            indices = np.array(dims.get(member.dim, range(graph.shapes[member.tensor][member.dim])))
            indices[member.positions] = member.positions[classes]
            dims[member.dim] = tuple(indices.tolist())
    reordered = deepcopy(model).double()
    apply_plan(reordered, PrunePlan(keep))
    wide = (EXAMPLE[0].double(),)
    expected, found = forward_outputs(deepcopy(model).double(), wide), forward_outputs(reordered, wide)
    assert largest(expected, found) < 1e-9
    assert structure(trace_channels(capture_graph(reordered.float(), EXAMPLE))) == structure(graph)


@SLOW
@given(model=networks())
def test_removing_nothing_changes_nothing(model: Network) -> None:
    """All classes kept: the same network in place, and the same function when it is written anew."""
    captured = capture_graph(model, EXAMPLE)
    graph = trace_channels(captured)
    assert graph.walk is not None
    pruned = prune_channels(captured, graph, model, {group.name: range(group.width) for group in graph.groups})
    assert (pruned.plan.keep, pruned.rewritten) == ({}, "")
    assert pruned.certificate.relative_error < 1e-10
    written = rewrite_module(captured, graph.walk, pruned.plan)
    images = (torch.randn(3, 3, SIZE, SIZE),)
    assert largest(forward_outputs(model, images), forward_outputs(written, images)) < 1e-5
    assert count_cost(written, EXAMPLE) == count_cost(model, EXAMPLE)


def largest(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> float:
    """Return the largest difference in units of the largest output."""
    scale = max(float(each.abs().max()) for each in first)
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) / scale
