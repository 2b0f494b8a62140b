"""Criteria of gradients, worked out on y = 3 * (1 * x) - 1 * (2 * x) with the loss mean(y * target)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph import ChannelGraph, FeatureMap, Group
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.importance.feature_maps import FeatureMaps
from pipeline.compress.pruning.importance.gates import gate_gradients
from pipeline.compress.pruning.importance.group_fisher import group_fisher
from pipeline.compress.pruning.importance.obd import obd
from pipeline.compress.pruning.importance.taylor import taylor
from pipeline.compress.pruning.importance.taylor_gates import taylor_gates
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable

Batches = list[tuple[Tensor, Tensor]]


def mean_product(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return mean(y * target)."""
    return (outputs[:, 0] * targets).mean()


def test_taylor_squares_the_signed_sum_of_each_batch(
    traced: Callable[..., tuple], scalar_net: nn.Sequential, scalar_batches: Batches
) -> None:
    """Mean x is 1.5 and 1: both layers give 4.5 and 3 for channel 0, -3 and -2 for channel 1.

    So (9^2 + 6^2) / 2 = 58.5 and (6^2 + 4^2) / 2 = 26.
    """
    found = taylor(*traced(scalar_net, 1, 1, 1), scalar_batches, mean_product)["1"]
    assert found.tolist() == pytest.approx([58.5, 26])
    assert found.dtype == torch.float64


def test_obd_takes_gradients_of_single_samples(
    traced: Callable[..., tuple], scalar_net: nn.Sequential, scalar_batches: Batches
) -> None:
    """Mean x^2 is 9/4, and h * w^2 / 2 of two weights sums to 9/4 * (1 * 3)^2 and 9/4 * (2 * 1)^2."""
    captured, graph = traced(scalar_net, 1, 1, 1)
    assert obd(captured, graph, scalar_batches, mean_product)["1"].tolist() == pytest.approx([20.25, 9])
    together = [(torch.cat([x for x, _ in scalar_batches]), torch.ones(4))]
    assert obd(captured, graph, together, mean_product)["1"].tolist() == pytest.approx([20.25, 9])


def test_gates_measure_each_sample(
    traced: Callable[..., tuple], scalar_net: nn.Sequential, scalar_batches: Batches
) -> None:
    """Effects are 3 x and -2 x: means of absolutes 3.75 and 2.5, sums of squares 81 and 36, halved by a cost of 2."""
    captured, graph = traced(scalar_net, 1, 1, 1)
    assert taylor_gates(captured, graph, scalar_batches, mean_product)["1"].tolist() == pytest.approx([3.75, 2.5])
    assert group_fisher(captured, graph, scalar_batches, mean_product)["1"].tolist() == pytest.approx([81, 36])
    priced = group_fisher(captured, graph, scalar_batches, mean_product, channel_cost={"1": 2.0})
    assert priced["1"].tolist() == pytest.approx([40.5, 18])


def test_fisher_divides_by_activation_memory(traced: Callable[..., tuple]) -> None:
    """With 2x2 pixels, all of weight 1, the gradient is summed over pixels, and a channel frees four numbers.

    x = 1 everywhere: channel c gives 4 * c per sample, for two samples 2 * (4 c)^2 / 4 = 8 c^2.
    """
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(12, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))
        net[2].weight.fill_(1.0)
    batches = [(torch.ones(2, 1, 2, 2), torch.ones(2))]
    assert group_fisher(*traced(net, 1, 2, 2), batches, mean_product)["0"].tolist() == pytest.approx([8, 32, 72])


def test_coupled_maps_add_before_they_are_squared_and_count_once(
    scalar_net: nn.Sequential, scalar_batches: Batches
) -> None:
    """Two different maps of one group add their effects; the same map named by two layers is one map."""
    captured = capture_graph(scalar_net, (torch.ones(2, 1, 1, 1),))
    hidden = next(node.name for node in captured.module.graph.nodes if "linear" in node.name)
    first, swapped = (
        FeatureMap(hidden, layer, 1, np.array(order)) for layer, order in (("a", [[0], [1]]), ("b", [[1], [0]]))
    )

    def scores(*maps: FeatureMap) -> list[float]:
        graph = ChannelGraph((Group("g", 2, (), maps),), (), {}, {})
        return taylor_gates(captured, graph, scalar_batches, mean_product)["g"].tolist()

    assert scores(first, FeatureMap(hidden, "c", 1, first.positions)) == pytest.approx([3.75, 2.5])
    assert scores(first, swapped) == pytest.approx([1.25, 1.25])  # |3 x - 2 x|


def test_weights_are_left_as_they_were(
    traced: Callable[..., tuple], scalar_net: nn.Sequential, scalar_batches: Batches
) -> None:
    """Frozen weights are scored as the others and stay frozen; no gradient stays behind."""
    scalar_net[1].weight.requires_grad_(requires_grad=False)
    captured, graph = traced(scalar_net, 1, 1, 1)
    with torch.no_grad():
        assert taylor(captured, graph, scalar_batches, mean_product)["1"].tolist() == pytest.approx([58.5, 26])
        assert taylor_gates(captured, graph, scalar_batches, mean_product)["1"].tolist() == pytest.approx([3.75, 2.5])
    assert [weight.requires_grad for weight in scalar_net.parameters()] == [False, True]
    assert all(weight.grad is None for weight in scalar_net.parameters())


def test_fisher_refuses_costs_that_are_not_positive(
    traced: Callable[..., tuple], scalar_net: nn.Sequential, scalar_batches: Batches
) -> None:
    """A group without a cost cannot be divided by it."""
    with pytest.raises(InputError, match=r"not positive for \['1'\]"):
        group_fisher(*traced(scalar_net, 1, 1, 1), scalar_batches, mean_product, channel_cost={})


def test_gates_refuse_maps_without_samples(traced: Callable[..., tuple]) -> None:
    """What a small network makes of constants has one gradient for the whole batch."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(4, 3))
            self.hidden, self.out = nn.Linear(3, 5), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) + self.out(self.hidden(self.table).relu())[0]

    captured, graph = traced(Biased(), 1, 2, 2)
    hidden = tuple(group for group in graph.groups if group.name == "hidden")
    maps = FeatureMaps(captured, replace(graph, groups=hidden), "taylor_gates")
    with pytest.raises(StageError, match="hidden do not depend on the batch"):
        list(gate_gradients(maps, [(torch.ones(2, 1, 2, 2), torch.ones(2))], mean_product))
