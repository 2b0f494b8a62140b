"""What a channel graph says: members, frozen dimensions, aliases, order and names; and the networks that ship."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compress.pruning.graph import ChannelGraph, trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.graph.types import layer_of
from pipeline.compress.pruning.prune import prune_channels
from tests.unit.compress.pruning.networks import Example, Net, conv, halves

MODELS = Path(__file__).parents[5] / "models"
IMAGES = (torch.randn(2, 3, 2, 2),)


def flattened() -> Net:
    """Return a convolution of 2x2 pixels, a norm and a linear layer on all of it."""
    return Net(lambda m, x: m.fc(m.n(m.a(x)).flatten(1)), a=conv(3, 4), n=nn.BatchNorm2d(4), fc=nn.Linear(16, 2))


def graph_of(net: nn.Module, example: Example = IMAGES) -> ChannelGraph:
    """Return the channel graph of a network."""
    return trace_channels(capture_graph(net, example))


def test_members_say_what_each_channel_owns() -> None:
    """After a flatten of 2x2 pixels, a channel owns its filter, its norm and four columns of the linear layer."""
    (group,) = graph_of(flattened()).groups
    owned = {(member.tensor, member.dim): member for member in group.members}
    names = ("a.weight", "a.bias", "n.weight", "n.bias", "n.running_mean", "n.running_var", "fc.weight")
    assert {tensor for tensor, _ in owned} == set(names)
    assert np.array_equal(owned["a.weight", 0].positions, [[0], [1], [2], [3]])
    assert np.array_equal(owned["fc.weight", 1].positions, np.arange(16).reshape(4, 4))
    assert [member.tensor for member in group.members if member.consumes] == ["fc.weight"]
    assert (group.name, group.width, group.layers) == ("a", 4, ("a", "n"))


def test_frozen_dimensions_say_why_and_which_side() -> None:
    """The image's channels and the classes stay; kernel sizes are no channels and are not listed."""
    told = {(frozen.tensor, frozen.dim): frozen for frozen in graph_of(flattened()).frozen}
    assert {key: frozen.reason for key, frozen in told.items()} == {
        ("a.weight", 1): "input of the network",
        ("fc.weight", 0): "output of the network",
        ("fc.bias", 0): "output of the network",
    }
    assert {key for key, frozen in told.items() if frozen.consumes} == {("a.weight", 1)}


def test_a_tensor_that_layers_share_has_one_name() -> None:
    """Groups mention the first name; the others stand in `aliases`."""
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    net[2].weight = net[1].weight
    graph = graph_of(net, (torch.randn(2, 3),))
    assert graph.aliases == {"1.weight": ("1.weight", "2.weight")}
    (group,) = graph.groups
    assert (group.name, group.width) == ("0", 8)
    assert {(member.tensor, member.dim) for member in group.members if member.tensor.endswith("weight")} == {
        ("0.weight", 0),
        ("1.weight", 0),
        ("1.weight", 1),
        ("3.weight", 1),
    }
    assert graph.shapes["1.weight"] == (8, 8)
    assert "2.weight" not in graph.shapes


def test_classes_with_other_slices_are_other_groups() -> None:
    """Of one convolution, channels 0 to 2 are read by one layer, 3 to 7 by two: two groups, in the order of use."""
    net = Net(
        lambda m, x: m.b(m.a(x)) + m.c(m.a(x)[:, 3:]), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1), c=nn.Conv2d(5, 2, 1)
    )
    first, second = graph_of(net).groups
    assert (first.name, second.name) == ("a", "a:2")
    rows = [group.members[0].positions.ravel().tolist() for group in (first, second)]
    assert rows == [[0, 1, 2], [3, 4, 5, 6, 7]]
    columns = {member.tensor: member.positions.ravel().tolist() for member in second.members if member.consumes}
    assert columns == {"b.weight": [3, 4, 5, 6, 7], "c.weight": [0, 1, 2, 3, 4]}


def test_no_position_is_owned_twice() -> None:
    """Every index of every dimension belongs to one class at most."""
    net = Net(lambda m, x: m.c(torch.cat([m.a(x), m.b(m.a(x)) + m.a(x)], 1)), a=conv(3, 8), b=conv(8, 8), c=conv(16, 2))
    seen: dict[tuple[str, int], list[int]] = {}
    for group in graph_of(net).groups:
        for member in group.members:
            seen.setdefault((member.tensor, member.dim), []).extend(member.positions.ravel().tolist())
    assert sorted(seen) == [
        ("a.bias", 0),
        ("a.weight", 0),
        ("b.bias", 0),
        ("b.weight", 0),
        ("b.weight", 1),
        ("c.weight", 1),
    ]
    assert all(len(set(indices)) == len(indices) for indices in seen.values())
    assert sorted(seen["c.weight", 1]) == list(range(16))


def test_tracing_twice_gives_the_same() -> None:
    """Names, order and positions do not depend on the run."""
    captured = capture_graph(flattened(), IMAGES)
    first, second = (repr(trace_channels(captured)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("tensor", "layer"), [("layer1.0.conv1.weight", "layer1.0.conv1"), ("fc.bias", "fc"), ("scale", "scale")]
)
def test_the_layer_of_a_tensor(tensor: str, layer: str) -> None:
    """A parameter of the network itself is its own layer."""
    assert layer_of(tensor) == layer


@pytest.mark.parametrize(
    ("name", "shape", "groups", "first"),
    [
        ("lenet_300_100", (1, 28, 28), 2, "fc1"),
        ("lenet_5", (1, 28, 28), 3, "conv1"),
        ("resnet_cifar", (3, 16, 16), 12, "conv"),
        ("resnet18", (3, 32, 32), 12, "conv1"),
        pytest.param("efficientnet_lite0", (3, 32, 32), 24, "stem", marks=pytest.mark.slow),
    ],
)
def test_reference_models(name: str, shape: tuple[int, ...], groups: int, first: str) -> None:
    """Networks that ship are pruned exactly and in place, twice, and keep nothing whole but their classes."""
    spec = importlib.util.spec_from_file_location(f"definition_{name}", MODELS / name / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model, example = module.build().eval(), (torch.randn(2, *shape),)
    for _ in range(2):
        captured = capture_graph(model, example)
        graph = trace_channels(captured)
        assert (len(graph.groups), graph.groups[0].name) == (groups, first)
        assert {frozen.reason for frozen in graph.frozen if not frozen.consumes} == {"output of the network"}
        pruned = prune_channels(captured, graph, model, halves(graph))
        assert (pruned.rewritten, pruned.certificate.statistics) == ("", ())
        assert pruned.certificate.relative_error < 1e-10
        model = pruned.model
