"""New weights for the same layers: by seed alone, masks kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.compress.training.scratch import reset_weights
from pipeline.core.errors import InputError


def network(fill: float) -> nn.Sequential:
    """Return two layers and a norm, all of whose numbers are the same."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(fill)
        model.get_buffer("1.running_mean").fill_(fill)
    return model


def test_weights_depend_on_the_seed_alone() -> None:
    """Not on what they were; norms and their statistics start again, and other draws go on as if nothing had been."""
    one, two, three = network(3.0), network(5.0), network(3.0)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    for model, seed in ((one, 0), (two, 0), (three, 1)):
        reset_weights(model, {}, seed)
    assert torch.equal(torch.rand(1), expected)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    assert not torch.equal(one[0].weight, three[0].weight)
    assert one[1].running_mean.tolist() == [0, 0, 0]
    assert float(one[0].weight.detach().abs().max()) <= 1 / 3  # 1 / sqrt(9 inputs)


def test_masks_stay() -> None:
    """The same positions are zero, and no others."""
    model = network(1.0)
    mask = torch.arange(24).reshape(2, 12) % 3 == 0
    reset_weights(model, {"3.weight": mask}, 0)
    assert torch.equal(model[3].weight != 0, mask)


class Scaled(nn.Module):
    """A parameter of a class that cannot draw it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_parameters_that_cannot_be_drawn_are_named() -> None:
    """A control that kept some weights would be none."""
    with pytest.raises(InputError, match=r"cannot draw 1\.scale anew"):
        reset_weights(nn.Sequential(nn.Linear(1, 1), Scaled()), {}, 0)
