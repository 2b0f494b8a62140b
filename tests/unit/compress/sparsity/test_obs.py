"""Exact OBS of a layer: brute force, normal equations, exact density, dead inputs, singular Hessians."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from pipeline.compress.sparsity.obs import damped_hessian, output_loss, prune_rows, refit_rows
from pipeline.core.errors import InputError, StageError


def inputs(width: int, samples: int, seed: int = 0) -> Tensor:
    """Correlated inputs [K, N]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, dtype=torch.float64, generator=generator)
    return mix @ torch.randn(width, samples, dtype=torch.float64, generator=generator)


def hessian_of(x_KN: Tensor) -> Tensor:
    """Return the Hessian of a layer with these inputs."""
    return (2 / x_KN.shape[1]) * x_KN @ x_KN.T


def weights(*shape: int, seed: int = 7) -> Tensor:
    """Return normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def least_loss(weight_K: Tensor, x_KN: Tensor, kept: list[int]) -> float:
    """Least mean squared output error of a row with a support, from the inputs by least squares."""
    target = x_KN.T @ weight_K
    found = torch.linalg.lstsq(x_KN[kept].T, target[:, None]).solution[:, 0] if kept else torch.zeros(0)
    left = target - (x_KN[kept].T @ found if kept else 0)
    return float(left.square().mean())


def test_one_weight_leaves_as_brute_force_over_all_supports_says() -> None:
    """The best of all supports, with values and error from least squares on the inputs themselves."""
    for seed in range(10):
        x, weight = inputs(6, 40, seed), weights(1, 1, 6, seed=seed)
        found = prune_rows(weight, hessian_of(x)[None], 5 / 6, damping=0)
        losses = {kept: least_loss(weight[0, 0], x, [*kept]) for kept in combinations(range(6), 5)}
        best = min(losses, key=lambda kept: losses[kept])
        assert tuple(found.weight[0, 0].nonzero()[:, 0].tolist()) == best
        assert found.loss == pytest.approx(losses[best], rel=1e-9)


@pytest.mark.parametrize("density", [0.1, 0.35, 0.7, 1.0])
def test_what_stays_solves_the_normal_equations_on_its_support(density: float) -> None:
    """No kept weight can lower the error, the count is exact, and the loss is that of the outputs."""
    x, weight = inputs(20, 100), weights(1, 8, 20)
    found = prune_rows(weight, hessian_of(x)[None], density, damping=0)
    gradient = (found.weight[0] - weight[0]) @ x @ x.T
    assert float(gradient[found.weight[0] != 0].abs().max()) < 1e-8 * float((weight[0] @ x @ x.T).abs().max())
    assert int(found.weight.count_nonzero()) == round(density * 160)
    error = (found.weight[0] - weight[0]) @ x
    assert found.loss == pytest.approx(float(error.square().sum() / 100), rel=1e-9, abs=1e-12)


def test_rows_get_what_they_need_and_the_layer_its_density() -> None:
    """A row of large weights keeps more than the others."""
    x, weight = inputs(16, 80), weights(1, 4, 16)
    weight[0, 0] *= 100
    found = prune_rows(weight, hessian_of(x)[None], 0.25, damping=0)
    kept = found.weight[0].count_nonzero(dim=1).tolist()
    assert sum(kept) == 16
    assert kept[0] > max(kept[1:])


@pytest.mark.parametrize(("density", "share"), [(0.1, 0.75), (0.3, 0.5), (0.5, 0.3)])
def test_outputs_change_far_less_than_by_magnitude(density: float, share: float) -> None:
    """At equal density, with correlated inputs; the choice is better too, not only the values."""
    x, weight = inputs(32, 400), weights(1, 16, 32)
    hessian = hessian_of(x)[None]
    found = prune_rows(weight, hessian, density)
    threshold = weight.abs().reshape(-1).sort(descending=True).values[round(density * 512) - 1]
    plain = weight * (weight.abs() >= threshold)
    assert int(plain.count_nonzero()) == int(found.weight.count_nonzero())
    assert found.loss < share * output_loss(plain - weight, hessian)
    refitted = refit_rows(weight, plain != 0, hessian)  # the choice of weights is better, too, not only their values
    assert found.loss < 0.9 * output_loss(refitted - weight, hessian)


def test_groups_have_hessians_of_their_own() -> None:
    """Each group solves the equations of its own inputs."""
    x = [inputs(6, 50, seed) for seed in (1, 2)]
    weight, hessian = weights(2, 3, 6), torch.stack([hessian_of(each) for each in x])
    found = prune_rows(weight, hessian, 0.5, damping=0)
    assert int(found.weight.count_nonzero()) == 18
    for group in range(2):
        gradient = (found.weight[group] - weight[group]) @ hessian[group]
        assert float(gradient[found.weight[group] != 0].abs().max()) < 1e-9


def test_weights_of_dead_inputs_leave_first_and_no_more_than_asked_for() -> None:
    """They cost nothing; those that are kept stay as they were, and so do all others."""
    x, weight = inputs(8, 60), weights(1, 2, 8)
    x[3] = 0
    found = prune_rows(weight, hessian_of(x)[None], 14 / 16)
    assert found.weight[0, :, 3].tolist() == [0, 0]
    assert found.loss == 0
    assert torch.equal(found.weight[0, :, [0, 1, 2, 4, 5, 6, 7]], weight[0, :, [0, 1, 2, 4, 5, 6, 7]])
    fewer = prune_rows(weight, hessian_of(x)[None], 15 / 16)
    assert int(fewer.weight.count_nonzero()) == 15
    assert int((fewer.weight[0, :, 3] == weight[0, :, 3]).sum()) == 1
    whole = prune_rows(weight, torch.zeros(1, 8, 8, dtype=torch.float64), 0.5)
    assert int(whole.weight.count_nonzero()) == 8


def test_zeros_stay_zeros() -> None:
    """Whatever the density, and also where it asks for more weights than there are."""
    x, weight = inputs(10, 60), weights(1, 3, 10)
    weight[0, :, [1, 4, 6]] = 0
    for density in (0.4, 0.9):
        found = prune_rows(weight, hessian_of(x)[None], density)
        assert not bool(found.weight[0, :, [1, 4, 6]].any())
        assert int(found.weight.count_nonzero()) == min(round(density * 30), 21)
    assert not bool(prune_rows(weight, hessian_of(x)[None], 0.0).weight.any())


def test_a_singular_hessian_is_damped_more_and_says_so() -> None:
    """Tenfold each time, and in the end an error."""
    x, weight = inputs(12, 5), weights(1, 4, 12)
    singular = hessian_of(x)
    with_negative = singular - 0.05 * torch.eye(12, dtype=torch.float64) * singular.diagonal().mean()
    found = prune_rows(weight, with_negative[None], 0.5)
    assert found.damping == pytest.approx(0.1)
    assert int(found.weight.count_nonzero()) == 24
    assert prune_rows(weight, singular[None], 0.5, damping=0).damping > 0
    assert damped_hessian(singular[None]).damping == 0.01
    with pytest.raises(StageError, match="singular with a damping of 10 still"):
        damped_hessian(-100 * singular[None])
    with pytest.raises(StageError, match="not finite"):
        damped_hessian(torch.full((1, 2, 2), torch.nan, dtype=torch.float64))


def test_a_pattern_holds_in_each_run_and_beats_magnitude() -> None:
    """2:4 against the two largest of each four."""
    x, weight = inputs(16, 100), weights(1, 8, 16)
    hessian = hessian_of(x)[None]
    found = prune_rows(weight, hessian, (2, 4))
    assert bool((found.weight.reshape(8, 4, 4).count_nonzero(dim=2) == 2).all())
    order = weight.reshape(8, 4, 4).abs().argsort(dim=2)
    plain = weight.reshape(8, 4, 4).scatter(2, order[:, :, :2], 0.0).reshape(1, 8, 16)
    assert found.loss < 0.7 * output_loss(plain - weight, hessian)


def test_a_density_outside_its_range_is_refused() -> None:
    """With the number that was found."""
    with pytest.raises(InputError, match=r"density of 1\.5"):
        prune_rows(weights(1, 2, 4), torch.eye(4, dtype=torch.float64)[None], 1.5)
