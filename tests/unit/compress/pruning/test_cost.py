"""Operations and parameters against counts by hand, and predictions against counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.compress.pruning.cost import (
    NetworkCost,
    ProductsModel,
    count_cost,
    macs_model,
    parameters_model,
    size_model,
)
from pipeline.compress.pruning.graph import Axis, ChannelGraph, Contraction, Group, Member, trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.surgery import apply_plan, plan_for
from pipeline.core.errors import InputError


def test_a_convolution_and_a_linear_layer() -> None:
    """Output positions times weights of a filter; biases and norms cost no operation but are parameters."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10))
    assert count_cost(net, torch.zeros(2, 3, 8, 8)) == NetworkCost(
        macs=16 * 8 * 27 + 1280, parameters=8 * 27 + 8 + 16 + 1290
    )


def test_groups_and_matrix_products() -> None:
    """A depthwise filter sees one channel; a product of two computed matrices counts too."""

    class Product(nn.Module):
        """Multiply pixels with themselves."""

        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.depthwise(x).flatten(2)
            return hidden @ hidden.transpose(1, 2)

    assert count_cost(Product(), torch.zeros(1, 4, 5, 5)).macs == 25 * 4 * 9 + 4 * 25 * 4


def test_attention() -> None:
    """Five tokens: projections of 12 x 36 and 12 x 12, a perceptron of 2 x 12 x 24, and per head two 5 x 5 x 4."""
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)
    assert count_cost(layer, torch.zeros(2, 5, 12)).macs == 5 * (12 * 36 + 12 * 12 + 2 * 12 * 24) + 3 * 2 * 5 * 5 * 4


def test_a_shared_parameter_counts_once_and_modes_stay() -> None:
    """The operations are those that run, the parameters those that are stored; the network is left as it was."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    net[1].weight = net[0].weight
    assert count_cost(net, torch.ones(3, 4)) == NetworkCost(macs=32, parameters=16 + 8 + 8)
    assert net.training
    assert torch.equal(net[2].running_mean, torch.zeros(4))


def test_a_network_of_two_inputs() -> None:
    """The first image of each input: 3 * 2 and 5 * 2 operations."""

    class Two(nn.Module):
        """Add two linear layers of two inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(5, 2, bias=False)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            assert len(a) == len(b) == 1
            return self.a(a) + self.b(b)

    assert count_cost(Two(), (torch.zeros(4, 3), torch.zeros(4, 5))) == NetworkCost(macs=16, parameters=8 + 10)


class Net(nn.Module):
    """A concatenation of two layers' channels, a depthwise layer with a norm, and a flattened map of 16 pixels."""

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 1, bias=False)
        self.deep, self.norm = nn.Conv2d(a, a, 3, padding=1, groups=a, bias=False), nn.BatchNorm2d(a)
        self.c, self.fc = nn.Conv2d(a + b, c, 1), nn.Linear(16 * c, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, 4, 4] to [N, 10]."""
        hidden = self.norm(self.deep(self.a(x)))
        return self.fc(self.c(torch.cat([hidden, self.b(hidden)], 1)).flatten(1))


WIDTHS = {"a": 6, "b": 5, "c": 4}


def graph_of_net() -> ChannelGraph:
    """Return the channels of `Net(6, 5, 4)` as they are worked out by hand."""

    def member(tensor: str, dim: int, width: int, start: int = 0, per_class: int = 1) -> Member:
        return Member(tensor, dim, start + np.arange(width * per_class).reshape(width, per_class), consumes=False)

    of_a = [member(name, 0, 6) for name in ("a.weight", "a.bias", "deep.weight", "norm.weight", "norm.bias")]
    of_a += [member("norm.running_mean", 0, 6), member("norm.running_var", 0, 6), member("b.weight", 1, 6)]
    of_b = [member("b.weight", 0, 5), member("c.weight", 1, 5, start=6)]
    of_c = [member("c.weight", 0, 4), member("c.bias", 0, 4), member("fc.weight", 1, 4, per_class=16)]
    a, b, c, both = Axis(0, {"a": 1}), Axis(0, {"b": 1}), Axis(0, {"c": 1}), Axis(0, {"a": 1, "b": 1})
    return ChannelGraph(
        groups=(
            Group("a", 6, (*of_a, member("c.weight", 1, 6))),
            Group("b", 5, tuple(of_b)),
            Group("c", 4, tuple(of_c)),
        ),
        frozen=(),
        shapes={name: tuple(tensor.shape) for name, tensor in Net(**WIDTHS).state_dict().items()},
        aliases={},
        contractions=(
            Contraction("a", 16 * 27, (a,)),
            Contraction("deep", 16 * 9, (a,)),
            Contraction("b", 16, (a, b)),
            Contraction("c", 16, (both, c)),
            Contraction("fc", 10, (Axis(0, {"c": 16}),)),
        ),
    )


GRAPH = graph_of_net()
PARAMETERS = [name for name, _ in Net(**WIDTHS).named_parameters()]


@settings(max_examples=20)
@given(st.builds(dict, a=st.integers(1, 6), b=st.integers(1, 5), c=st.integers(1, 4)))
def test_predictions_are_what_is_counted(widths: dict[str, int]) -> None:
    """Operations and parameters of any widths equal those of a network that was built with them."""
    counted = count_cost(Net(**widths), torch.zeros(1, 3, 4, 4))
    assert macs_model(GRAPH).cost(widths) == counted.macs
    assert parameters_model(GRAPH, PARAMETERS).cost(widths) == counted.parameters


def test_groups_that_are_not_named_are_whole() -> None:
    """Half of `c` is saved: its share of the layer `c`, 16 * 11 * 2, and 10 * 16 * 2 of the last."""
    whole = macs_model(GRAPH).cost({})
    assert whole == count_cost(Net(**WIDTHS), torch.zeros(1, 3, 4, 4)).macs
    assert whole - macs_model(GRAPH).cost({"c": 2}) == 16 * 11 * 2 + 320


def test_bytes_of_weights_and_biases() -> None:
    """Two of four channels of `c`: 22 + 320 weights of one byte, 2 + 10 biases of four; statistics if asked for."""
    model = size_model(GRAPH, {"c.weight": 1, "c.bias": 4, "fc.weight": 1, "fc.bias": 4})
    assert model.cost({"c": 2}) == 22 + 320 + 4 * 12
    assert size_model(GRAPH, {"norm.running_var": 4, "norm.num_batches_tracked": 8}).cost({"a": 3}) == 20


def test_a_shared_tensor_counts_once_under_any_of_its_names() -> None:
    """Of the aliases of one weight the group mentions the first."""
    positions = np.arange(4)[:, None]
    graph = ChannelGraph(
        (Group("a", 4, (Member("a.weight", 0, positions, consumes=False),)),),
        (),
        {"a.weight": (4, 3), "b.weight": (4, 3)},
        {"a.weight": ("a.weight", "b.weight")},
    )
    for names in (["a.weight"], ["b.weight"], ["a.weight", "b.weight"]):
        assert parameters_model(graph, names).cost({"a": 2}) == 6


def test_an_unknown_group_is_refused() -> None:
    """The message has the group and those that there are."""
    with pytest.raises(InputError, match=r"No groups \['x'\] in the network. Groups: a, b, c"):
        macs_model(GRAPH).cost({"x": 2, "a": 1})


def test_products_of_constants_and_no_products() -> None:
    """A layer without channels that can leave costs its constant; a network of none costs nothing."""
    assert ProductsModel("units", GRAPH.groups, [(7, ()), (2, (Axis(1, {"a": 1}),))]).cost({"a": 3}) == 7 + 2 * 4
    assert ProductsModel("units", GRAPH.groups, []).cost({"a": 3}) == 0


def test_a_traced_network_costs_what_is_counted_before_and_after_pruning() -> None:
    """The sizes that tracing finds are those of the operators that run."""
    net, example = Net(16, 12, 8).eval(), torch.zeros(2, 3, 4, 4)
    graph = trace_channels(capture_graph(net, (example,)))
    macs, parameters = macs_model(graph), parameters_model(graph, dict(net.named_parameters()))
    assert NetworkCost(int(macs.cost({})), int(parameters.cost({}))) == count_cost(net, example)
    kept = {group.name: tuple(range(group.width // 4)) for group in graph.groups}
    widths = {name: len(classes) for name, classes in kept.items()}
    apply_plan(net, plan_for(graph, kept))
    assert widths == {"a": 4, "b": 3, "c": 2}
    assert NetworkCost(int(macs.cost(widths)), int(parameters.cost(widths))) == count_cost(net, example)
