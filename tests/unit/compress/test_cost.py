"""Operations and parameters against counts by hand."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.compress.cost import Cost, count


def test_a_convolution_and_a_linear_layer() -> None:
    """Output positions times weights of a filter; biases and norms cost no operation but are parameters."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10))
    assert count(net, torch.zeros(2, 3, 8, 8)) == Cost(macs=16 * 8 * 27 + 1280, parameters=8 * 27 + 8 + 16 + 1290)


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

    assert count(Product(), torch.zeros(1, 4, 5, 5)).macs == 25 * 4 * 9 + 4 * 25 * 4


def test_a_shared_parameter_counts_once_and_modes_stay() -> None:
    """The operations are those that run, the parameters those that are stored; the network is left as it was."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    net[1].weight = net[0].weight
    assert count(net, torch.ones(3, 4)) == Cost(macs=32, parameters=16 + 8 + 8)
    assert net.training
    assert torch.equal(net[2].running_mean, torch.zeros(4))
