"""Blocks leave networks that write in place: the rest computes what it did, and still trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.depth import prune_blocks, residual_blocks
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph


class Block(nn.Module):
    """A residual block whose activation writes into the sum."""

    def __init__(self, activation: nn.Module, *, returned: bool) -> None:
        super().__init__()
        self.conv, self.activation, self.returned = nn.Conv2d(4, 4, 3, padding=1), activation, returned

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation's result, or the sum that it has written into."""
        total = self.conv(x) + x
        made = self.activation(total)
        return made if self.returned else total


class Network(nn.Module):
    """Blocks behind one another; the first one's result is read again at the end."""

    def __init__(self, activation: nn.Module, *, returned: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(activation, returned=returned) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the first and the last block's results, averaged over places."""
        first = self.blocks[0](x)
        return torch.mean(first + self.blocks[2](self.blocks[1](first)), dim=(2, 3))


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardtanh(inplace=True)])
@pytest.mark.parametrize("gone", ["blocks.0.conv", "blocks.1.conv", "blocks.2.conv"])
def test_nothing_is_written_into_a_shortcut(activation: nn.Module, gone: str, *, returned: bool) -> None:
    """The pruned network is the original with a branch of zeros, and gradients flow through it."""
    torch.manual_seed(0)
    model, images = Network(activation, returned=returned).eval(), torch.randn(2, 4, 5, 5)
    captured = capture_graph(model, (images,))
    assert gone in {block.name for block in residual_blocks(captured)}
    pruned = prune_blocks(captured, trace_channels(captured), model, [gone]).model
    with torch.no_grad():
        branch = model.get_submodule(gone)
        branch.weight.zero_()
        branch.bias.zero_()
        expected = model(images.clone())
    found = pruned(images.clone())
    torch.testing.assert_close(found, expected)
    found.sum().backward()
