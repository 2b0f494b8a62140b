"""Plans and surgery in place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.surgery import PrunePlan, apply_plan, plan_for
from pipeline.compress.pruning.tensors import copied_network
from pipeline.core.errors import InputError
from tests.unit.compress.pruning.networks import halves

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph.types import ChannelGraph

EXAMPLE = torch.zeros(2, 3, 4, 4)


class Small(nn.Module):
    """Convolutions, plain and grouped, with norms and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.norm = nn.GroupNorm(8, 16)
        self.up = nn.ConvTranspose2d(16, 6, 2)
        self.act = nn.PReLU(6)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 2]."""
        return self.fc(self.act(self.up(self.norm(self.deep(self.bn(self.a(x)))))).mean((2, 3)))


class Sequence(nn.Module):
    """A table, a norm over its features, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.norm = nn.LayerNorm(8)
        self.rms = nn.RMSNorm(8)
        self.cell = nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T] to [N, T, 2]."""
        return self.fc(self.cell(self.rms(self.norm(self.table(x))))[0])


def graph_of(net: nn.Module, example: Tensor = EXAMPLE) -> ChannelGraph:
    """Return the channel graph of a network."""
    return trace_channels(capture_graph(net, (example,)))


def test_layers_state_their_new_sizes() -> None:
    """Channels, groups and features of convolutions, norms and linear layers fit their tensors."""
    net = Small().eval()
    graph = graph_of(net)
    assert {group.name: group.width for group in graph.groups} == {"a": 8, "up": 6}
    apply_plan(net, plan_for(graph, halves(graph)))
    assert (net.a.out_channels, net.bn.num_features) == (4, 4)
    assert (net.deep.in_channels, net.deep.out_channels, net.deep.groups) == (4, 8, 4)
    assert (net.norm.num_channels, net.norm.num_groups) == (8, 4)
    assert (net.up.in_channels, net.up.out_channels) == (8, 3)
    assert (net.act.num_parameters, net.fc.in_features, net.fc.out_features) == (3, 3, 2)
    assert net(EXAMPLE).shape == (2, 2)


def test_tables_and_recurrent_layers_state_their_new_sizes() -> None:
    """Features of an embedding and of norms, inputs and units of a recurrent layer."""
    net, example = Sequence().eval(), torch.randint(9, (2, 5))
    graph = graph_of(net, example)
    apply_plan(net, plan_for(graph, halves(graph)))
    assert (net.table.num_embeddings, net.table.embedding_dim) == (9, 4)
    assert (net.norm.normalized_shape, net.rms.normalized_shape) == ((4,), (4,))
    assert (net.cell.input_size, net.cell.hidden_size, net.fc.in_features) == (4, 3, 3)
    assert net.cell.weight_ih_l1.shape == (12, 3)
    assert net(example).shape == (2, 5, 2)


def test_rebuilding_from_plans_gives_the_same_network() -> None:
    """Original, plans in order as read from JSON, then the tensors: the outputs are equal."""
    net, plans = Small().eval(), []
    for _ in range(2):
        graph = graph_of(net)
        plans.append(plan_for(graph, halves(graph)))
        apply_plan(net, plans[-1])
    rebuilt = Small().eval()
    for plan in plans:
        apply_plan(rebuilt, PrunePlan.from_json(json.loads(json.dumps(plan.as_json()))))
    rebuilt.load_state_dict(net.state_dict())
    assert torch.equal(rebuilt(EXAMPLE + 1), net(EXAMPLE + 1))


def test_a_plan_names_only_what_changes() -> None:
    """Keeping all of a group leaves no trace in the plan."""
    graph = graph_of(Small().eval())
    assert plan_for(graph, {group.name: range(group.width) for group in graph.groups}).keep == {}
    assert set(plan_for(graph, {"up": [0, 2]}).as_json()) == {"up.weight", "up.bias", "act.weight", "fc.weight"}


def test_a_plan_lists_the_indices_that_stay() -> None:
    """Channel 3 is a filter and, behind a depthwise layer with two outputs for each input, rows 6 and 7."""
    plan = plan_for(graph_of(Small().eval()), {"a": [3, 5]})
    assert plan.keep["a.weight"] == {0: (3, 5)}
    assert plan.keep["deep.weight"] == {0: (6, 7, 10, 11)}
    assert plan.keep["norm.bias"] == {0: (6, 7, 10, 11)}
    assert plan.keep["up.weight"] == {0: (6, 7, 10, 11)}
    assert PrunePlan.from_json(plan.as_json()) == plan


def test_data_type_gradient_flag_and_sharing_survive() -> None:
    """A frozen, half-precision weight that two layers share is still all of that."""
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    net[2].weight = net[1].weight
    plan = plan_for(graph_of(net, torch.zeros(2, 3)), {"0": [1, 5, 6]})
    net.bfloat16()[1].weight.requires_grad_(requires_grad=False)
    apply_plan(net, plan)
    assert net[1].weight is net[2].weight
    assert (net[1].weight.dtype, net[1].weight.requires_grad, net[1].weight.shape) == (torch.bfloat16, False, (3, 3))
    assert isinstance(net[0].weight, nn.Parameter)
    assert net[0].weight.requires_grad


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"b.weight": {0: (0,)}}, "'b.weight', which the network does not have"),
        ({"a.weight": {0: (0, 8)}}, "up to 8 in dimension 0 of 'a.weight'"),
        ({"a.weight": {4: (0,)}}, "in dimension 4 of 'a.weight'"),
        ({"a.weight": {0: ()}}, "'a.weight'"),
    ],
)
def test_a_plan_of_another_network_changes_nothing(plan: dict[str, dict[int, tuple[int, ...]]], message: str) -> None:
    """Unknown tensors and indices are refused before anything is sliced."""
    net = Small()
    with pytest.raises(InputError, match=message):
        apply_plan(net, PrunePlan({"a.bias": {0: (0,)}, **plan}))
    assert net.a.bias.shape == (8,)


@pytest.mark.parametrize(("kept", "message"), [({"b": [0]}, "'b' is not in"), ({"a": []}, "'a' would lose all")])
def test_a_group_is_known_and_keeps_something(kept: dict[str, list[int]], message: str) -> None:
    """The message lists the groups that there are."""
    with pytest.raises(InputError, match=f"{message}.*Groups: a, up"):
        plan_for(graph_of(Small().eval()), kept)


class MadeAnew(nn.Identity):
    """Is copied by being made again, as the layers of einops are."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Name the class."""
        return MadeAnew, ()


def test_a_copy_is_in_the_modes_of_the_network() -> None:
    """Also where a layer has a way of its own to be copied."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), MadeAnew()).eval()
    model[0].train()
    assert [module.training for module in copied_network(model).modules()] == [False, True, False]
