"""Masks that move while a network trains: ramp, surgery, exchange and movement, against numbers made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compress.sparsity.allocation import SparsityAim
from pipeline.compress.sparsity.dns import NetworkSurgery, surgery_masks, weight_statistics
from pipeline.compress.sparsity.gradual import GradualMasks
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.compress.sparsity.movement import MovementMasks
from pipeline.compress.sparsity.moving import MaskTiming, cubic_density, kept_share
from pipeline.compress.sparsity.rigl import ExchangingMasks, exchanged_mask, forget_slots
from pipeline.compress.sparsity.scores import magnitude_scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipeline.compress.sparsity.layers import SparseLayer
    from pipeline.compress.sparsity.moving import MovingMasks

NAME = "weight"
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def linear(values: list[list[float]]) -> tuple[nn.Linear, tuple[SparseLayer, ...], dict[str, Tensor]]:
    """Return a layer with these weights, no bias, and a mask that keeps all of them."""
    weight = torch.tensor(values)
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight.data = weight
    return model, sparse_layers(model), {NAME: torch.ones_like(weight, dtype=torch.bool)}


def step(model: nn.Module, masks: MovingMasks, optimizer: torch.optim.Optimizer, number: int, gradient: Tensor) -> None:
    """Take one step of a training with this gradient, as `TrainingRun` does."""
    model.get_parameter(NAME).grad = gradient.clone()
    masks.add_gradients(model, number)
    optimizer.step()
    masks.after_step(model, optimizer, number)


def test_the_cubic_ramp() -> None:
    """From 1 to 0.2: an eighth of the way is left in the middle."""
    assert [cubic_density(done, 1, 0.2) for done in (0, 0.5, 1, 2)] == pytest.approx([1, 0.2 + 0.8 / 8, 0.2, 0.2])


def test_gradual_masks_come_down_by_the_ramp_and_stay() -> None:
    """Updates in steps 2, 4, 5 of 5: densities by hand; what was cut stays cut however its gradient pulls."""
    model, layers, alive = linear([[float(value) for value in range(1, 101)]])
    masks = GradualMasks(layers, alive, SparsityAim(0.1, "layer"), magnitude_scores, MaskTiming(3, 5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    found = []
    for number in range(8):
        before = masks.masks[NAME]
        step(model, masks, optimizer, number, torch.full((1, 100), -50.0) * ~before)
        found.append(int((model.weight != 0).sum()))
        assert not bool((masks.masks[NAME] & ~before).any())
    expected = [round(100 * (0.1 + 0.9 * (1 - done / 5) ** 3)) for done in (2, 4, 5)]
    assert found == [100, expected[0], expected[0], expected[1], 10, 10, 10, 10]
    assert model.weight[0, 90:].tolist() == [float(value) for value in range(91, 101)]
    assert masks.counted_from == 1  # the fifth step is in the second epoch


def test_surgery_has_two_thresholds() -> None:
    """T is 2 + 1 * 1: cut at 2.7 and below, back above 3.3, else as it was."""
    weights = {"a": torch.tensor([9.0, 9.01, 11.0, 11.01, -9.0, -11.01])}
    on, off = ({"a": torch.full((6,), fill)} for fill in (True, False))
    statistics = {"a": (2.0, 8.0)}
    assert surgery_masks(weights, on, statistics, 1.0)["a"].tolist() == [False, True, True, True, False, True]
    assert surgery_masks(weights, off, statistics, 1.0)["a"].tolist() == [False, False, False, True, False, True]
    assert bool(surgery_masks(weights, on, statistics, -5.0)["a"].all())
    mean, deviation = weight_statistics({"a": torch.tensor([-1.0, 3.0])})["a"]
    assert (mean, deviation) == (2, 1)  # of |w|, over the population


def test_a_cut_weight_comes_back_past_the_upper_threshold_and_not_before() -> None:
    """The gradient reaches it as if there were no mask; thresholds stay until they move, their statistics always."""
    model, layers, alive = linear([[0.1, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]])
    masks = NetworkSurgery(layers, alive, 0.8, MaskTiming(100, 100, 100), gamma=0.0, power=1.0, seed=0)
    masks.c = masks._bisected(0.8)
    mean, deviation = masks.statistics[NAME]
    threshold = mean + masks.c * deviation
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step(model, masks, optimizer, 0, torch.zeros(1, 10))
    assert (model.weight == 0).tolist() == [[True, True, *[False] * 8]]
    gradient = torch.zeros(1, 10)
    gradient[0, 1] = -0.05  # dL/dw where the forward had zero
    for number in range(1, 60):
        step(model, masks, optimizer, number, gradient)
        dense = float(masks.dense[NAME][0, 1])
        assert dense == pytest.approx(1 + 0.05 * number, rel=1e-4)
        assert bool(masks.masks[NAME][0, 1]) == (dense > 1.1 * threshold), number
        assert float(model.weight.detach()[0, 1]) == (dense if dense > 1.1 * threshold else 0)
    assert bool(masks.masks[NAME][0, 1])
    assert masks.statistics[NAME] == (mean, deviation)


@CALM
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_surgery_finds_the_density_by_bisection(seed: int, density: float) -> None:
    """For weights as they are, over layers with other spreads, and again when the masks freeze after all have moved."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20))
    with torch.no_grad():
        model.get_parameter("1.weight").mul_(3)
    layers = sparse_layers(model)
    alive = {each.name: torch.ones_like(each.weight, dtype=torch.bool) for each in layers}
    masks = NetworkSurgery(layers, alive, density, MaskTiming(1, 3, 1), gamma=0.0, power=1.0, seed=0)
    assert kept_share(masks._masks(masks._bisected(density)).values()) == pytest.approx(density, abs=1 / 1800)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number in range(3):
        for each in layers:
            each.weight.grad = torch.randn_like(each.weight)
        masks.add_gradients(model, number)
        optimizer.step()
        masks.after_step(model, optimizer, number)
    assert kept_share(masks.masks.values()) == pytest.approx(density, abs=1 / 1800)


def test_surgery_comes_down_the_ramp_whatever_comes_back() -> None:
    """Weights that grow all the time do not pile up until the end: each density is that of the ramp, to a tenth."""
    torch.manual_seed(0)
    model, layers, alive = linear(torch.randn(30, 30).tolist())
    masks = NetworkSurgery(layers, alive, 0.1, MaskTiming(50, 50, 10), gamma=0.0, power=1.0, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    densities = []
    for number in range(50):
        step(model, masks, optimizer, number, -masks.dense[NAME].sign())
        densities.append(kept_share(masks.masks.values()))
    assert densities[8] == 1
    assert densities[9::10] == pytest.approx([cubic_density(done, 1, 0.1) for done in (0.2, 0.4, 0.6, 0.8, 1)], rel=0.1)


def test_updates_of_surgery_become_rare() -> None:
    """About (1 + n)^-1 of the steps, drawn by seed and step alone."""
    _, layers, alive = linear([[1.0, 2.0, 3.0, 4.0]])
    timing = MaskTiming(10, 10_000, 1)
    one, two = (NetworkSurgery(layers, alive, 0.5, timing, gamma=0.01, power=1.0, seed=3) for _ in range(2))
    drawn = [one._drawn(number) for number in range(2000)]
    assert drawn == [two._drawn(number) for number in range(2000)]
    assert drawn[0]
    expected = sum(1 / (1 + 0.01 * number) for number in range(2000))
    assert sum(drawn) == pytest.approx(expected, rel=0.15)


@CALM
@given(st.integers(0, 10_000), st.integers(0, 30), st.floats(0.1, 0.9))
def test_an_exchange_keeps_the_number_of_weights(seed: int, count: int, density: float) -> None:
    """Whatever weights, gradients and earlier masks are; dead weights never grow, and what grows had most gradient."""
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(6, 5, generator=generator) < 0.9
    mask = (torch.rand(6, 5, generator=generator) < density) & alive
    weight, gradient = (torch.randn(6, 5, generator=generator) for _ in range(2))
    new = exchanged_mask(weight, gradient, mask, alive, count)
    assert int(new.sum()) == int(mask.sum())
    assert not bool((new & ~alive).any())
    grown, out = new & ~mask, alive & ~new
    left = out & ~mask
    if bool(grown.any()) and bool(left.any()):
        assert float(gradient.abs()[grown].min()) >= float(gradient.abs()[left].max())


def test_exchange_by_hand() -> None:
    """Of four live weights the two smallest leave; of the largest gradients one belongs to one that just left."""
    weight = torch.tensor([4.0, 3.0, 0.2, 0.1, 0.0, 0.0])
    gradient = torch.tensor([9.0, 9.0, 5.0, 0.1, 1.0, 6.0])
    mask = torch.tensor([True, True, True, True, False, False])
    new = exchanged_mask(weight, gradient, mask, torch.ones(6, dtype=torch.bool), 2)
    assert new.tolist() == [True, True, True, False, False, True]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_grown_weights_start_at_zero_and_the_optimizer_forgets_them(name: str) -> None:
    """Momentum of a weight that was dead is set to zero, others keep theirs; between exchanges masks stay."""
    torch.manual_seed(0)
    model, layers, alive = linear(torch.randn(10, 10).tolist())
    first = {NAME: torch.rand(10, 10) < 0.3}
    masks = ExchangingMasks(layers, alive, first, MaskTiming(4, 8, 4), fraction=0.5)
    masks.apply(model)
    make: Callable[..., torch.optim.Optimizer] = (
        torch.optim.AdamW if name == "adamw" else lambda given, lr: torch.optim.SGD(given, lr=lr, momentum=0.9)
    )
    optimizer = make(model.parameters(), lr=0.1)
    live = int(first[NAME].sum())
    for number in range(9):
        before = masks.masks[NAME].clone()
        step(model, masks, optimizer, number, torch.randn(10, 10))
        after = masks.masks[NAME]
        grown = after & ~before
        assert int(after.sum()) == live
        assert not bool(model.weight[~after].any())
        assert bool(grown.any()) == (number == 3)  # in step 8 the fraction has come down to zero
        slots = [slot for slot in optimizer.state[model.weight].values() if torch.is_tensor(slot) and slot.ndim]
        if number == 3:
            assert int(grown.sum()) <= int(0.5 / 2 * live)  # some of those that left are grown again
            assert not bool(model.weight[grown].any())
            assert slots
            assert all(not bool(slot[grown].any()) and bool(slot[after & before].all()) for slot in slots)
    forget_slots(optimizer, nn.Parameter(torch.zeros(1)), torch.ones(1, dtype=torch.bool))  # which it does not know


def test_movement_scores_by_hand() -> None:
    """The sum of -w g with dense weights; a large weight that moves to zero leaves before a small one that grows."""
    model, layers, alive = linear([[5.0, 0.1, 1.0, -2.0]])
    masks = MovementMasks(layers, alive, SparsityAim(0.5, "layer"), MaskTiming(4, 4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradients = torch.tensor([[1.0, -1.0, 0.5, 0.5]])
    expected = torch.zeros(1, 4)
    dense = model.weight.detach().clone()
    for number in range(4):
        expected -= dense * gradients
        step(model, masks, optimizer, number, gradients)
        dense = dense - 0.1 * gradients
        assert torch.allclose(masks.dense[NAME], dense)
    assert torch.allclose(masks.scores[NAME], expected)
    assert masks.masks[NAME].tolist() == [[False, True, False, True]]
    assert (model.weight != 0).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("kind", ["gradual", "surgery", "exchange", "movement"])
def test_the_state_is_all_that_is_needed_to_go_on(kind: str) -> None:
    """After a restore in the middle the weights end the same."""

    def make() -> tuple[nn.Linear, MovingMasks]:
        torch.manual_seed(0)
        model, layers, alive = linear(torch.randn(8, 8).tolist())
        aim, timing = SparsityAim(0.3, "layer"), MaskTiming(3, 8, 2)
        masks: MovingMasks
        match kind:
            case "gradual":
                masks = GradualMasks(layers, alive, aim, magnitude_scores, timing)
            case "surgery":
                masks = NetworkSurgery(layers, alive, 0.3, timing, gamma=0.1, power=1.0, seed=0)
            case "exchange":
                masks = ExchangingMasks(layers, alive, {NAME: torch.rand(8, 8) < 0.3}, timing, fraction=0.5)
            case _:
                masks = MovementMasks(layers, alive, aim, timing)
        return model, masks

    def train(model: nn.Linear, masks: MovingMasks, numbers: range) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for number in numbers:
            step(model, masks, optimizer, number, torch.randn(8, 8, generator=torch.Generator().manual_seed(number)))

    whole, masks = make()
    train(whole, masks, range(10))
    first, masks = make()
    train(first, masks, range(5))
    second, again = make()
    second.load_state_dict(first.state_dict())
    again.restore(masks.state())
    train(second, again, range(5, 10))
    assert torch.equal(second.weight, whole.weight)
    assert int((whole.weight == 0).sum()) > 30
