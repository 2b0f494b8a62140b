"""Plans, surgery, literal sizes and the certificate."""

from __future__ import annotations

import json
import re
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.certificate import certify
from pipeline.compress.graph import ChannelGraph, trace
from pipeline.compress.literals import without_literals
from pipeline.compress.surgery import PrunePlan, apply, plan_for
from pipeline.core.errors import InputError, StageError

EXAMPLE = torch.zeros(2, 3, 4, 4)


class Small(nn.Module):
    """Convolutions, plain and grouped, with norms and a linear layer."""

    def __init__(self) -> None:
        """Give every layer another width."""
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.norm = nn.GroupNorm(4, 16)
        self.up = nn.ConvTranspose2d(16, 6, 2)
        self.act = nn.PReLU(6)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 2]."""
        return self.fc(self.act(self.up(self.norm(self.deep(self.bn(self.a(x)))))).mean((2, 3)))


class Literal(nn.Module):
    """A forward that knows the width of one of its layers by heart."""

    def __init__(self) -> None:
        """Make three layers."""
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, 4, 4] to [N, 2]."""
        return self.fc(self.b(self.a(x)).view(-1, 128))


def halves(graph: ChannelGraph) -> dict[str, range]:
    """Keep the first half of every group."""
    return {group.name: range(group.width // 2) for group in graph.groups}


def test_layers_state_their_new_sizes() -> None:
    """Channels, groups and features of all kinds of layers fit their tensors."""
    net = Small().eval()
    plan = plan_for(trace(net, EXAMPLE), halves(trace(net, EXAMPLE)))
    apply(net, plan)
    assert (net.a.out_channels, net.bn.num_features) == (4, 4)
    assert (net.deep.in_channels, net.deep.out_channels, net.deep.groups) == (4, 8, 4)
    assert (net.norm.num_channels, net.norm.num_groups) == (8, 2)
    assert (net.up.in_channels, net.up.out_channels) == (8, 3)
    assert (net.act.num_parameters, net.fc.in_features, net.fc.out_features) == (3, 3, 2)
    assert net(EXAMPLE).shape == (2, 2)


def test_rebuilding_from_plans_gives_the_same_network() -> None:
    """Original, plans in order as read from JSON, then the tensors: the outputs are equal."""
    net, plans = Small().eval(), []
    for _ in range(2):
        graph = trace(net, EXAMPLE)
        plans.append(plan_for(graph, halves(graph)))
        apply(net, plans[-1])
    rebuilt = Small().eval()
    for plan in plans:
        apply(rebuilt, PrunePlan.from_json(json.loads(json.dumps(plan.as_json()))))
    rebuilt.load_state_dict(net.state_dict())
    assert torch.equal(rebuilt(EXAMPLE + 1), net(EXAMPLE + 1))


def test_a_plan_names_only_what_changes() -> None:
    """Keeping all of a group leaves no trace in the plan."""
    graph = trace(Small().eval(), EXAMPLE)
    assert plan_for(graph, {group.name: range(group.width) for group in graph.groups}).keep == {}
    assert set(plan_for(graph, {"up": [0, 2]}).as_json()) == {"up.weight", "up.bias", "act.weight", "fc.weight"}


def test_data_type_gradient_flag_and_sharing_survive() -> None:
    """A frozen, half-precision weight that two layers share is still all of that."""
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    net[2].weight = net[1].weight
    plan = plan_for(trace(net, torch.zeros(2, 3)), {"0": [1, 5, 6]})
    net.bfloat16()[1].weight.requires_grad_(requires_grad=False)
    apply(net, plan)
    assert net[1].weight is net[2].weight
    assert (net[1].weight.dtype, net[1].weight.requires_grad, net[1].weight.shape) == (torch.bfloat16, False, (3, 3))
    assert isinstance(net[0].weight, nn.Parameter)
    assert net[0].weight.requires_grad


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"b.weight": {0: (0,)}}, "'b.weight', which the network does not have"),
        ({"a.weight": {0: (0, 8)}}, "up to 8 in dimension 0 of 'a.weight'"),
        ({"a.weight": {0: ()}}, "'a.weight'"),
    ],
)
def test_a_plan_of_another_network_changes_nothing(plan: dict[str, dict[int, tuple[int, ...]]], message: str) -> None:
    """Unknown tensors and indices are refused before anything is sliced."""
    net = Small()
    with pytest.raises(InputError, match=message):
        apply(net, PrunePlan({"a.bias": {0: (0,)}, **plan}))
    assert net.a.bias.shape == (8,)


@pytest.mark.parametrize(("kept", "message"), [({"b": [0]}, "'b' is not in"), ({"a": []}, "'a' would lose all")])
def test_a_group_is_known_and_keeps_something(kept: dict[str, list[int]], message: str) -> None:
    """The message lists the groups that there are."""
    with pytest.raises(InputError, match=f"{message}.*Groups: a, up"):
        plan_for(trace(Small().eval(), EXAMPLE), kept)


def test_a_misplaced_channel_is_found() -> None:
    """A plan that takes other columns from the consumer than rows from the producer has no certificate."""
    net = Small().eval()
    plan = plan_for(trace(net, EXAMPLE), {"up": [0, 1, 2]})
    for tensor in ("fc.weight", "up.bias"):
        ((dim, kept),) = plan.keep[tensor].items()
        wrong = PrunePlan({**plan.keep, tensor: {dim: (0, 1, 3)}})
        smaller = deepcopy(net)
        apply(smaller, wrong)
        with pytest.raises(StageError, match="not the original without the removed channels"):
            certify(net, smaller, wrong, EXAMPLE)
        assert kept == (0, 1, 2)


def test_changed_values_are_found() -> None:
    """A pruned network whose weights are not the original's has no certificate."""
    net = Small().eval()
    plan = plan_for(trace(net, EXAMPLE), {"up": [0, 1, 2]})
    smaller = deepcopy(net)
    apply(smaller, plan)
    with torch.no_grad():
        smaller.fc.bias[0] += 1
    with pytest.raises(StageError, match=r"'fc\.bias'"):
        certify(net, smaller, plan, EXAMPLE)


def test_certifying_changes_neither_network() -> None:
    """Values, data types and modes are as before."""
    net = Small().train()
    plan = plan_for(trace(net, EXAMPLE), {"a": range(4)})
    smaller = deepcopy(net)
    apply(smaller, plan)
    states = [deepcopy(each.state_dict()) for each in (net, smaller)]
    certificate = certify(net, smaller, plan, EXAMPLE)
    assert 0 <= certificate.relative_error < 1e-12
    for each, state in zip((net, smaller), states, strict=True):
        assert all(module.training for module in each.modules())
        assert all(torch.equal(state[key], value) for key, value in each.state_dict().items())


def test_a_literal_size_is_an_error_that_names_the_line() -> None:
    """A forward with a literal number of channels does not run once they have left."""
    net = Literal().eval()
    plan = plan_for(trace(net, EXAMPLE), {"b": range(4)})
    smaller = deepcopy(net)
    apply(smaller, plan)
    with pytest.raises(StageError, match=r"does not run: .* at test_surgery\.py:\d+ `.*view\(-1, 128\).*literal"):
        certify(net, smaller, plan, EXAMPLE)


def test_a_literal_size_keeps_its_group_whole() -> None:
    """Only the group that the literal counts is frozen, with the line as reason."""
    net = Literal().eval()
    graph = without_literals(trace(net, EXAMPLE), net, EXAMPLE)
    assert [group.name for group in graph.groups] == ["a"]
    reasons = {frozen.tensor: frozen.reason for frozen in graph.frozen}
    assert re.search(r"literal number.* test_surgery\.py:\d+ `.*view\(-1, 128\).*` fails", reasons["b.weight"])
    assert reasons["b.bias"] == reasons["b.weight"]
