"""Soft filter pruning: which weights are set to zero, and that choices are remembered."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.compress.pruning.graph import Group, Member
from pipeline.compress.pruning.soft import SoftPruning, zero_filters


def network() -> nn.Sequential:
    """Return a convolution with batch norm, and the layer that reads it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


EACH = np.arange(3)[:, None]
GROUP = Group(
    "0",
    3,
    (
        Member("0.weight", 0, EACH, consumes=False),
        Member("0.bias", 0, EACH, consumes=False),
        Member("1.weight", 0, EACH, consumes=False),
        Member("1.bias", 0, EACH, consumes=False),
        Member("2.weight", 1, EACH, consumes=True),
    ),
    (),
)


def test_filters_and_their_biases_are_zeroed_and_nothing_else() -> None:
    """Norms and the next layer stay as they are, and so do the kept filters."""
    model, before = network(), network()
    zero_filters(model, [GROUP], {"0": (0, 2)})
    convolution, norm, last = model
    assert not convolution.weight[1].any()
    assert float(convolution.bias[1].detach()) == 0
    assert torch.equal(convolution.weight[[0, 2]], before[0].weight[[0, 2]])
    assert torch.equal(norm.weight, before[1].weight)
    assert torch.equal(last.weight, before[2].weight)


def test_groups_without_a_choice_stay() -> None:
    """A group that is not named loses nothing."""
    model, before = network(), network()
    zero_filters(model, [GROUP], {})
    assert torch.equal(model[0].weight, before[0].weight)


def test_the_choice_is_made_anew_after_each_epoch_and_survives() -> None:
    """Zeroed filters that grow back are kept the next time; network and average get the same zeros."""

    def strongest(model: nn.Module) -> dict[str, tuple[int, ...]]:
        filters = dict(model.named_parameters())["0.weight"].detach().abs().flatten()
        return {"0": tuple(sorted(filters.argsort(descending=True)[:2].tolist()))}

    model, average = network(), network()
    model[0].weight.data = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    soft = SoftPruning([GROUP], strongest)
    soft.end_epoch([model, average])
    assert model[0].weight.flatten().tolist() == [0, 2, 3]
    assert float(average[0].weight[0].detach()) == 0
    model[0].weight.data = torch.tensor([9.0, 2.0, 3.0]).view(3, 1, 1, 1)
    soft.end_epoch([model])
    assert soft.kept == [{"0": (1, 2)}, {"0": (0, 2)}]
    again = SoftPruning([GROUP], strongest)
    again.restore(soft.state())
    assert again.kept == soft.kept
