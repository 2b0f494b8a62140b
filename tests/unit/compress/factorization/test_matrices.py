"""Factors of matrices against what they must lose, and against what plain ones lose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.compress.factorization.matrices import (
    balanced,
    explained_energy,
    factor_matrix,
    fitted_left,
    output_energy,
    relative_error,
    whitening_root,
)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(rows: int, size: int) -> Tensor:
    """Return inputs [rows, size] whose directions differ in strength by a factor of hundreds."""
    scale = torch.logspace(0, -2.5, size, dtype=torch.float64)
    mixing, _ = torch.linalg.qr(numbers(size, size, seed=7))
    return numbers(rows, size, seed=3) * scale @ mixing


@pytest.mark.parametrize(("outputs", "inputs"), [(12, 20), (20, 12), (9, 9)])
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_the_whitened_loss_is_the_sum_of_the_cut_squares(outputs: int, inputs: int, rank: int) -> None:
    """Measured on the inputs themselves, to a relative 1e-8."""
    weight, given = numbers(outputs, inputs), correlated(400, inputs)
    factored = factor_matrix(weight, whitening_root(given.T @ given))
    left, right = factored.cut(rank)
    lost = float(((weight - left @ right) @ given.T).square().sum())
    assert lost == pytest.approx(float(factored.values[rank:].square().sum()), rel=1e-8)
    assert lost > 0


@pytest.mark.parametrize("rank", [2, 5, 8])
def test_whitened_factors_lose_less_than_plain_ones_of_the_same_size(rank: int) -> None:
    """On correlated inputs; and no perturbation of the factors does better."""
    weight, given = numbers(16, 24), correlated(500, 24)
    gram = given.T @ given / 500
    errors = {}
    for name, root in (("plain", None), ("whitened", whitening_root(gram))):
        left, right = factor_matrix(weight, root).cut(rank)
        errors[name] = relative_error(weight, left @ right, gram)
    assert errors["whitened"] < 0.8 * errors["plain"]
    left, right = factor_matrix(weight, whitening_root(gram)).cut(rank)
    for seed in range(5):
        other = (left + 1e-3 * numbers(*left.shape, seed=seed)) @ (right + 1e-3 * numbers(*right.shape, seed=seed + 50))
        assert relative_error(weight, other, gram) > errors["whitened"]


def test_factors_are_balanced_and_exact_at_full_rank() -> None:
    """Plain: both sides carry the root of the singular values; whitened at full rank: the product is the matrix."""
    weight, given = numbers(10, 14), correlated(100, 14)
    plain = factor_matrix(weight)
    torch.testing.assert_close(plain.left.norm(dim=0), plain.values.sqrt())
    torch.testing.assert_close(plain.right.norm(dim=1), plain.values.sqrt())
    whitened = factor_matrix(weight, whitening_root(given.T @ given))
    torch.testing.assert_close(whitened.left @ whitened.right, weight)
    assert not torch.allclose(plain.values, whitened.values)


def test_inputs_that_leave_directions_out_still_have_a_root() -> None:
    """Three inputs of eight dimensions: the root is that of the matrix up to a millionth; zeros are refused."""
    given = numbers(3, 8)
    gram = given.T @ given
    root = whitening_root(gram)
    assert torch.equal(root, root.tril())
    torch.testing.assert_close(root @ root.T, gram, rtol=0, atol=3e-6 * float(gram.diagonal().mean()))
    for wrong in (torch.zeros(3, 3), torch.full((3, 3), torch.nan)):
        with pytest.raises(ValueError, match="zero or not finite"):
            whitening_root(wrong.double())


def test_a_regression_is_the_best_left_factor() -> None:
    """Against least squares on the inputs themselves; each number of features explains what its regression does."""
    weight, given, features = numbers(6, 10), correlated(300, 10), numbers(4, 10, seed=9)
    gram = given.T @ given / 300
    expected = torch.linalg.lstsq(given @ features.T, given @ weight.T).solution.T
    torch.testing.assert_close(fitted_left(weight, features, gram), expected, rtol=1e-6, atol=1e-8)
    kept = explained_energy(weight, features, gram)
    for count in range(1, 5):
        left = fitted_left(weight, features[:count], gram)
        lost = relative_error(weight, left @ features[:count], gram)
        assert 1 - float(kept[count - 1]) / output_energy(weight, gram) == pytest.approx(lost, rel=1e-6)


def test_balancing_keeps_the_product() -> None:
    """And makes each column as long as its row."""
    left, right = numbers(5, 3) * 100, numbers(3, 7)
    one, other = balanced(left, right)
    torch.testing.assert_close(one @ other, left @ right)
    torch.testing.assert_close(one.norm(dim=0), other.norm(dim=1))
