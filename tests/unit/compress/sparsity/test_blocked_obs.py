"""OBS with a shared factor, against elimination column by column with inverses of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.compress.sparsity.blocked_obs import prune_in_blocks
from pipeline.compress.sparsity.obs import output_loss, prune_rows


def case(width: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight [1, O, K] and the Hessian [1, K, K] of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, dtype=torch.float64, generator=generator)
    x = mix @ torch.randn(width, 6 * width, dtype=torch.float64, generator=generator)
    weight = torch.randn(1, outputs, width, dtype=torch.float64, generator=generator)
    return weight, ((2 / (6 * width)) * x @ x.T)[None]


def eliminated(weight: Tensor, hessian: Tensor, gone: Tensor) -> Tensor:
    """One row: each column that leaves is made up for by those after it, which keep the loss of all before least."""
    row = weight.clone()
    for place in gone.nonzero()[:, 0].tolist():
        inverse = torch.linalg.inv(hessian[place:, place:])
        row[place:] -= row[place] / inverse[0, 0] * inverse[0]
        row[place] = 0
    return row


@pytest.mark.parametrize("block", [1, 5, 128])
def test_values_are_those_of_inverses_of_the_columns_that_are_left(block: int) -> None:
    """Trailing parts of one factor stand for an inverse of their own at each column."""
    weight, hessian = case(13, 4)
    found = prune_in_blocks(weight, hessian, 0.4, damping=0, block=block, refit=False)
    for row, result in zip(weight[0], found.weight[0], strict=True):
        torch.testing.assert_close(result, eliminated(row, hessian[0], result == 0))
    assert int(found.weight.count_nonzero()) == round(0.4 * 52)
    assert found.loss == pytest.approx(output_loss(found.weight - weight, hessian))


def test_all_rows_of_a_block_compete() -> None:
    """Blocks have the same density, rows what they need."""
    weight, hessian = case(16, 8)
    weight[0, 0] *= 50
    found = prune_in_blocks(weight, hessian, 0.25, block=8)
    kept = found.weight[0].count_nonzero(dim=1).tolist()
    assert kept[0] > 2 * max(kept[1:])
    assert found.weight[0, :, :8].count_nonzero() == found.weight[0, :, 8:].count_nonzero() == 16


def test_it_is_between_magnitude_and_exact_rows() -> None:
    """What the shared factor gives up, and what it keeps."""
    weight, hessian = case(48, 16)
    for density in (0.2, 0.5):
        exact, blocked = (prune(weight, hessian, density).loss for prune in (prune_rows, prune_in_blocks))
        limit = weight.abs().reshape(-1).sort(descending=True).values[round(density * weight.numel()) - 1]
        plain = output_loss(weight * (weight.abs() >= limit) - weight, hessian)
        assert exact < blocked < 0.9 * plain


def test_refitted_values_are_the_best_on_their_support() -> None:
    """The choice stays, the loss falls."""
    weight, hessian = case(20, 4)
    found, single = (prune_in_blocks(weight, hessian, 0.3, damping=0, refit=refit) for refit in (True, False))
    assert torch.equal(found.weight == 0, single.weight == 0)
    assert found.loss < single.loss
    gradient = (found.weight - weight) @ hessian
    assert float(gradient[found.weight != 0].abs().max()) < 1e-8


def test_a_pattern_holds_in_each_run_also_where_blocks_do_not_divide_it() -> None:
    """Blocks of six become two runs of four."""
    weight, hessian = case(24, 6)
    found = prune_in_blocks(weight, hessian, (1, 4), block=6)
    assert bool((found.weight.reshape(6, 6, 4).count_nonzero(dim=2) == 1).all())


def test_zeros_stay_and_dead_inputs_leave_first() -> None:
    """And a density of one changes nothing."""
    weight, hessian = case(12, 5)
    weight[0, :, [2, 9]] = 0
    hessian[0, 4] = hessian[0, :, 4] = 0
    found = prune_in_blocks(weight, hessian, 0.5, block=4)
    assert not bool(found.weight[0, :, [2, 4, 9]].any())
    assert int(found.weight.count_nonzero()) == 30
    whole = prune_in_blocks(weight, hessian, 1.0, block=4)
    assert torch.equal(whole.weight == 0, weight == 0)
    assert torch.equal(whole.weight[0, :, 4], weight[0, :, 4])
