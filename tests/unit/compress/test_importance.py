"""Scores are sums over everything that leaves with a channel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.graph import ChannelGraph, trace
from pipeline.compress.importance.l1 import l1
from pipeline.compress.importance.l2 import l2
from pipeline.compress.importance.random import random


@pytest.fixture
def net() -> nn.Sequential:
    """Return a convolution of three channels, its norm, and a linear layer on four pixels of each."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).eval()


def traced(net: nn.Module) -> tuple[ChannelGraph, dict[str, Tensor]]:
    """Return the graph and the parameters of a network of 3x3 images."""
    return trace(net, torch.zeros(2, 1, 3, 3)), dict(net.named_parameters())


def test_l2_sums_squares_over_all_coupled_slices(net: nn.Sequential) -> None:
    """Filter, bias, norm and the next layer's columns each count once; running statistics do not."""
    score = l2(*traced(net))["0"]
    slices = [net[0].weight.flatten(1), net[0].bias[:, None], net[1].weight[:, None], net[1].bias[:, None]]
    columns = net[3].weight.T.reshape(3, 8)
    expected = sum(part.double().square().sum(1) for part in [*slices, columns])
    assert torch.allclose(score, expected)
    assert score.dtype == torch.float64


def test_l1_sums_absolute_values(net: nn.Sequential) -> None:
    """Without the norm's tensors in the mapping, they do not count."""
    graph, tensors = traced(net)
    chosen = {name: tensor for name, tensor in tensors.items() if name.endswith("weight") and name != "1.weight"}
    expected = net[0].weight.double().abs().flatten(1).sum(1) + net[3].weight.double().abs().T.reshape(3, 8).sum(1)
    assert torch.allclose(l1(graph, chosen)["0"], expected)


def test_a_shared_tensor_counts_once() -> None:
    """Two layers with one weight score as that one weight, rows and columns."""
    net = nn.Sequential(nn.Linear(9, 4, bias=False), *(nn.Linear(4, 4, bias=False) for _ in range(2)), nn.Linear(4, 2))
    net[2].weight = net[1].weight
    graph = trace(nn.Sequential(nn.Flatten(), net), torch.zeros(2, 1, 3, 3))
    rows, shared, columns = (net[index].weight.double().abs() for index in (0, 1, 3))
    expected = rows.sum(1) + shared.sum(0) + shared.sum(1) + columns.sum(0)
    tensors = {f"1.{name}": tensor for name, tensor in net.named_parameters(remove_duplicate=False)}
    assert torch.allclose(l1(graph, tensors)["1.0"], expected)


def test_random_scores_follow_the_seed(net: nn.Sequential) -> None:
    """The same seed gives the same scores, another seed others."""
    graph, _ = traced(net)
    assert torch.equal(random(graph, 1)["0"], random(graph, 1)["0"])
    assert not torch.equal(random(graph, 1)["0"], random(graph, 2)["0"])
    assert random(graph, 1)["0"].shape == (3,)
