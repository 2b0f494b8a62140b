"""Penalties on channels: their gradients are those of the stated formulas, and they make channels small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compress.pruning.graph import Group, Member
from pipeline.compress.pruning.regularisation import BatchNormScale, GroupNorm, GrowingL2, near_zero, squared_norms
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.compress.training.training import Regulariser


def column(*indices: int) -> np.ndarray:
    """Return positions of classes that own one index each."""
    return np.array(indices, dtype=np.int64)[:, None]


def network() -> nn.Sequential:
    """Return two linear layers with a batch norm between them; 3 channels inside."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


INNER = Group(
    "0",
    3,
    (
        Member("0.weight", 0, column(0, 1, 2), consumes=False),
        Member("0.bias", 0, column(0, 1, 2), consumes=False),
        Member("1.weight", 0, column(0, 1, 2), consumes=False),
        Member("1.running_mean", 0, column(0, 1, 2), consumes=False),
        Member("2.weight", 1, column(0, 1, 2), consumes=True),
    ),
    (),
)


def gradients(model: nn.Module, penalty: Regulariser, step: int = 0) -> dict[str, torch.Tensor]:
    """Return what the penalty adds to gradients of zero."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    penalty.begin_epoch(model)
    penalty.add_gradients(model, step)
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_norms_are_over_everything_that_leaves() -> None:
    """Rows of the producer, its bias, the norm's scale and the consumer's columns count; buffers do not."""
    model = network()
    first, norm, last = model
    norm.bias.data.fill_(5)  # not a member of the group above
    found = squared_norms([INNER], dict(model.named_parameters()))["0"]
    expected = first.weight.square().sum(1) + first.bias.square() + norm.weight.square() + last.weight.square().sum(0)
    assert torch.allclose(found, expected)


def test_one_class_with_two_positions_and_two_axes() -> None:
    """Positions of one class are summed; weights in a row and a column of the same class count for both."""
    weight = torch.arange(16.0).reshape(4, 4)
    positions = np.array([[0, 2], [1, 3]])
    group = Group("w", 2, (Member("w", 0, positions, consumes=False), Member("w", 1, positions, consumes=True)), ())
    rows, columns = weight.square().sum(1), weight.square().sum(0)
    expected = [rows[0] + rows[2] + columns[0] + columns[2], rows[1] + rows[3] + columns[1] + columns[3]]
    assert squared_norms([group], {"w": weight})["w"].tolist() == pytest.approx([float(value) for value in expected])


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 4.0])
def test_the_gradient_is_that_of_the_penalty(squared: bool, alpha: float) -> None:  # noqa: FBT001
    """Against automatic differentiation of strength * sum of gamma * norm, in float64."""
    model = network().double()
    penalty = GroupNorm([INNER], 0.3, alpha=alpha, squared=squared)
    found = gradients(model, penalty)
    gamma = penalty.gamma["0"]
    first, norm, last = model
    size = first.weight.square().sum(1) + first.bias.square() + norm.weight.square() + last.weight.square().sum(0)
    value = 0.3 * (gamma * (size if squared else size.sqrt())).sum()
    assert penalty.value(model) == pytest.approx(value.item())
    names = ["0.weight", "0.bias", "1.weight", "2.weight"]
    expected = torch.autograd.grad(value, [dict(model.named_parameters())[name] for name in names])
    for name, gradient in zip(names, expected, strict=True):
        assert torch.allclose(found[name], gradient)
    assert not found["1.bias"].any()


def test_gamma_runs_from_one_to_two_to_the_alpha() -> None:
    """The strongest channel has gamma 1, the weakest 2^alpha, one half-way between 2^(alpha / 2); equal ones 1."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    group = Group("0", 3, (Member("0.weight", 0, column(0, 1, 2), consumes=False),), ())
    penalty = GroupNorm([group], 1, alpha=4)
    model[0].weight.data = torch.tensor([[1.0], [2.0], [3.0]]).sqrt()
    penalty.begin_epoch(model)
    assert penalty.gamma["0"].tolist() == pytest.approx([16, 4, 1])
    model[0].weight.data.fill_(2)
    penalty.begin_epoch(model)
    assert penalty.gamma["0"].tolist() == [1, 1, 1]


def test_a_dead_channel_has_no_gradient() -> None:
    """The lasso's gradient at zero is taken as zero, not as NaN."""
    model = network()
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("2.weight", 1)):
        dict(model.named_parameters())[name].data.select(dim, 1).zero_()
    found = gradients(model, GroupNorm([INNER], 1, alpha=4))
    assert not found["0.weight"][1].any()
    assert found["0.weight"][0].any()
    assert near_zero([INNER], dict(model.named_parameters())) == 1


def test_growing_decay_acts_on_the_chosen_alone_and_grows_to_its_ceiling() -> None:
    """Factor times weight on the channels that will leave, nothing on the others."""
    model = network()
    penalty = GrowingL2([INNER], {"0": (0, 2)}, increment=0.1, every=5, ceiling=0.25)
    assert [penalty.decay(step) for step in (0, 4, 5, 10, 1000)] == pytest.approx([0.1, 0.1, 0.2, 0.25, 0.25])
    found = gradients(model, penalty, step=5)
    weight = model[2].weight.detach()
    assert torch.allclose(found["2.weight"][:, 1], 0.2 * weight[:, 1])
    assert not found["2.weight"][:, [0, 2]].any()
    assert not gradients(model, GrowingL2([INNER], {}, increment=1, every=1, ceiling=1))["0.weight"].any()


def test_batch_norm_scales_get_the_sign() -> None:
    """Strength times the sign of the scale; the sign of zero is zero, and nothing else is touched."""
    model = network()
    model[1].weight.data = torch.tensor([0.5, -2.0, 0.0])
    found = gradients(model, BatchNormScale([INNER], model, 0.01))
    assert found["1.weight"].tolist() == pytest.approx([0.01, -0.01, 0])
    assert not any(found[name].any() for name in found if name != "1.weight")
    with pytest.raises(InputError, match=r"bn_scale needs batch norms.*found none"):
        BatchNormScale([INNER], nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 2)), 0.01)


def test_frozen_parameters_are_left_alone() -> None:
    """A parameter without a gradient is skipped."""
    model = network()
    model[0].weight.requires_grad_(False)  # noqa: FBT003 (torch's own signature)
    penalty = GroupNorm([INNER], 1, alpha=4)
    penalty.begin_epoch(model)
    penalty.add_gradients(model, 0)
    assert model[0].weight.grad is None


@pytest.mark.parametrize("method", ["group_norm", "growing_l2"])
def test_channels_become_small(method: str) -> None:
    """Gradient descent on the penalty alone brings the weak channels below 1 % of the strong."""
    model = network()
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("2.weight", 1)):
        dict(model.named_parameters())[name].data.select(dim, 1).mul_(0.5)
    penalty: Regulariser = (
        GroupNorm([INNER], 0.1, alpha=4, squared=True)
        if method == "group_norm"
        else GrowingL2([INNER], {"0": (0, 2)}, increment=0.5, every=2, ceiling=4)
    )
    before = squared_norms([INNER], dict(model.named_parameters()))["0"]
    for step in range(20):
        for parameter, gradient in zip(model.parameters(), gradients(model, penalty, step).values(), strict=True):
            parameter.data.sub_(0.1 * gradient)
    after = squared_norms([INNER], dict(model.named_parameters()))["0"]
    assert int(before.argmin()) == 1
    assert after[1] < 1e-4 * after.max()
    assert after.max() > 0.3 * before.max()
    assert near_zero([INNER], dict(model.named_parameters())) >= 1
