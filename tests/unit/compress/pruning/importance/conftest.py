"""Tiny networks whose scores can be worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph import ChannelGraph, trace_channels
from pipeline.compress.pruning.graph.capture import CapturedGraph, capture_graph

if TYPE_CHECKING:
    from collections.abc import Callable

Traced = tuple[CapturedGraph, ChannelGraph]


@pytest.fixture
def traced() -> Callable[..., Traced]:
    """Return a function from a network and the shape of one input to its capture and its groups."""

    def run(net: nn.Module, *shape: int) -> Traced:
        captured = capture_graph(net.eval(), (torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),))
        return captured, trace_channels(captured)

    return run


@pytest.fixture
def scalar_net() -> nn.Sequential:
    """Return y = 3 * (1 * x) - 1 * (2 * x): two hidden channels, w1 = (1, 2), w2 = (3, -1)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0], [2.0]]))
        net[2].weight.copy_(torch.tensor([[3.0, -1.0]]))
    return net


@pytest.fixture
def scalar_batches() -> list[tuple[Tensor, Tensor]]:
    """Return x = 1, 2 and x = 2, 0 in two batches, all targets 1."""
    return [(torch.tensor(x).view(2, 1, 1, 1), torch.ones(2)) for x in ([1.0, 2.0], [2.0, 0.0])]


@pytest.fixture
def maps_net() -> nn.Sequential:
    """Return a network whose first feature maps are its three input channels of 4x4 pixels behind a ReLU."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    return net
