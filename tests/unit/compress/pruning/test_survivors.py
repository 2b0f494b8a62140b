"""Channels that are left are followed through several edits, factors among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.graph.labels import Options
from pipeline.compress.pruning.graph.walk import walk
from pipeline.compress.pruning.survivors import composed_keep, surviving_channels
from pipeline.compress.training.hints import recorded_maps

SHAPES = {"a.weight": (6, 3, 3, 3), "b.weight": (6, 6, 3, 3)}


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([], {}),
        ([{"keep": {"a.weight": {"0": [0, 2, 4, 5]}}}], {"a.weight": {0: [0, 2, 4, 5]}}),
        # the second edit counts in the network of the first
        (
            [{"keep": {"a.weight": {"0": [0, 2, 4, 5]}}}, {"keep": {"a.weight": {"0": [1, 3]}}}],
            {"a.weight": {0: [2, 5]}},
        ),
        # outputs of the last leg and inputs of the first are the layer's; ranks are nobody's
        (
            [
                {"keep": {}, "factor": {"b": {"kind": "spatial", "ranks": [2]}}},
                {"keep": {"b.1.weight": {"0": [1, 2], "1": [0]}, "b.0.weight": {"1": [5], "0": [0]}}},
                {"keep": {"gone": {"0": [1]}}},
            ],
            {"b.weight": {0: [1, 2], 1: [5]}},
        ),
        (
            [
                {"keep": {}, "factor": {"b": {"kind": "tucker", "ranks": [2, 2]}}},
                {"keep": {"b.2.weight": {"0": [3, 4]}, "b.1.weight": {"0": [0]}}},
                {"keep": {}, "merge": ["b"]},
                {"keep": {"b.weight": {"0": [1]}}},
            ],
            {"b.weight": {0: [4]}},
        ),
    ],
)  # fmt: skip
def test_edits_are_composed(edits: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """Indices are those of the first network."""
    found = composed_keep(edits, SHAPES)
    assert {name: {dim: each.tolist() for dim, each in dims.items()} for name, dims in found.items()} == expected


class Two(nn.Module):
    """A residual block, whose sum no stored tensor makes alone, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = Block()
        self.both = Joined()

    def forward(self, images: Tensor) -> Tensor:
        """Return means of channels."""
        found: Tensor = self.both(self.block(self.stem(images)))
        return found.mean((2, 3)).sum(1)


class Block(nn.Module):
    """x + conv(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the sum, in place as torchvision's blocks end."""
        return (hidden + self.conv(hidden)).relu_()


class Joined(nn.Module):
    """[x, conv(x)]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return both, side by side."""
        return torch.cat([hidden, self.conv(hidden)], 1)


def test_channels_of_sums_and_joined_maps_are_found() -> None:
    """Channel 1 of the residual stream leaves, and the first of the joined convolution: 4 + 0 of what is joined."""
    torch.manual_seed(0)
    model = Two().eval()
    captured = capture_graph(model, (torch.randn(2, 1, 4, 4),))
    layers = ("stem", "block", "both")
    with torch.no_grad(), recorded_maps(model, layers) as maps:
        model(*captured.example)
    keep: dict[str, dict[int, Any]] = {"stem.weight": {0: [0, 2, 3]}, "both.conv.weight": {0: [1, 2]}}
    found = surviving_channels(walk(captured, Options("allow", heads=False)), captured, keep, maps)
    assert {name: each.tolist() for name, each in found.items()} == {
        "stem": [0, 2, 3],
        "block": [0, 2, 3],
        "both": [0, 2, 3, 5, 6],
    }
