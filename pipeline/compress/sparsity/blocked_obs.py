"""OBS for wide layers: one Cholesky factor for all rows, columns in one order, in blocks.

Source: Frantar and Alistarh, SparseGPT, ICML 2023, algorithm 1. Each column passes once; what a weight leaves behind is
made up for by the columns after it, so that the inverse Hessians of all rows are the trailing parts of one factor:
O(K^3 + rows * K^2) instead of rows * K^3. Less exact than `obs`: the choice within a block sees nothing of what later
columns could make up for, and kept weights of earlier columns are not refitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.sparsity.elimination import check_pattern
from pipeline.compress.sparsity.obs import DAMPING, PrunedRows, damped_hessian, leaving_count, output_loss, refit_kept

if TYPE_CHECKING:
    from torch import Tensor

#: Columns among which weights compete, over all rows: this many at most, and this share of a narrower layer.
MOST, SHARE = 128, 32


def prune_in_blocks(
    weight_GOK: Tensor,
    hessian_GKK: Tensor,
    amount: float | tuple[int, int],
    *,
    damping: float = DAMPING,
    block: int | None = None,
    refit: bool = True,
) -> PrunedRows:
    """Prune one layer by OBS with a factor that all rows share.

    Args:
        weight_GOK: float64 [G, O, K], see `weight_matrix`.
        hessian_GKK: see `input_hessians`.
        amount: the density, which each block of columns gets as nearly as whole weights allow and the layer exactly; or
            (n, m), which each run of m columns gets. Weights that are zero stay zero.
        damping: of the Hessian, relative to the mean of its diagonal.
        block: columns in one block, rounded up to whole runs; by default a thirty-second of them, at most 128.
        refit: solve for the kept weights of each row at the end; costs rows * (density * K)^3 / 3 multiply-adds.

    Raises:
        InputError: the density is not within [0, 1], or the pattern does not divide the columns.
        StageError: see `damped_hessian`.

    Cost: O(G * (K^3 + O * K^2)) multiply-adds; 16 * G * K^2 bytes beside the Hessian.
    """
    width, pattern = weight_GOK.shape[2], amount if isinstance(amount, tuple) else None
    check_pattern(pattern, width)
    block = block or min(MOST, max(1, width // SHARE))
    block = block if pattern is None else -(-block // pattern[1]) * pattern[1]
    damped = damped_hessian(hessian_GKK, damping)
    factor = torch.linalg.cholesky(damped.inverse, upper=True)
    work, leaves = weight_GOK.masked_fill(damped.dead[:, None], 0.0), weight_GOK == 0
    for start in range(0, width, block):
        stop = min(start + block, width)
        if not isinstance(amount, tuple):
            wanted = leaving_count(weight_GOK.numel(), amount) * stop // width - int(leaves[:, :, :start].sum())
            leaves[:, :, start:stop] |= _cheapest(_scores(work, leaves, factor, start, stop), wanted)
        errors = _pass_columns(work, leaves, factor, (start, stop), pattern)
        work[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    if refit:
        return refit_kept(weight_GOK, ~leaves, hessian_GKK, damped)
    new = torch.where(damped.dead[:, None] & ~leaves, weight_GOK, work)
    return PrunedRows(new, output_loss(new - weight_GOK, hessian_GKK), damped.damping)


def _scores(work: Tensor, leaves: Tensor, factor: Tensor, start: int, stop: int) -> Tensor:
    """Return what each weight of some columns costs, [G, O, stop - start]; those that leave anyway come first."""
    diagonal = factor.diagonal(dim1=1, dim2=2)[:, None, start:stop]
    return (work[:, :, start:stop] / diagonal).square().masked_fill(leaves[:, :, start:stop], -1.0)


def _cheapest(scores: Tensor, count: int) -> Tensor:
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    chosen[scores.reshape(-1).argsort(stable=True)[: max(count, 0)]] = True
    return chosen.reshape(scores.shape)


def _pass_columns(
    work: Tensor, leaves: Tensor, factor: Tensor, span: tuple[int, int], pattern: tuple[int, int] | None
) -> Tensor:
    """Take the weights that leave out of the columns of a block, and return what the columns after it make up for."""
    start, stop = span
    errors = torch.zeros_like(work[:, :, start:stop])
    for place in range(start, stop):
        if pattern and place % pattern[1] == 0:
            end = place + pattern[1]
            order = _scores(work, leaves, factor, place, end).argsort(dim=2, stable=True)
            leaves[:, :, place:end].scatter_(2, order[:, :, : pattern[1] - pattern[0]], True)  # noqa: FBT003 - a value
        error = work[:, :, place] * leaves[:, :, place] / factor[:, place, place][:, None]
        work[:, :, place:stop] -= error[:, :, None] * factor[:, None, place, place:stop]
        work[:, :, place].masked_fill_(leaves[:, :, place], 0.0)
        errors[:, :, place - start] = error
    return errors
