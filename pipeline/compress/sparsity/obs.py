"""Optimal brain surgeon on a layer's own output error, exactly, row by row.

Source: Hassibi and Stork, Optimal Brain Surgeon, NeurIPS 1992, on the quadratic of one layer's outputs as Frantar,
Singh and Alistarh (Optimal Brain Compression, NeurIPS 2022) do. What is kept of a row solves the normal equations on
its support, which is where all the single updates lead. About rows * K^3 / 3 multiply-adds for rows of K weights:
above a few thousand use `blocked_obs`. It does not help beyond what the calibration images show of a layer's inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.compress.sparsity.elimination import RowTraces, eliminate_rows, kept_support, merge_traces
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from torch import Tensor

#: Damping relative to the mean of the diagonal, and what it may rise to, tenfold each time that the matrix is singular.
DAMPING, LARGEST_DAMPING = 0.01, 10.0


@dataclass(frozen=True)
class DampedHessian:
    """A layer's Hessian made invertible.

    Attributes:
        hessian: with dead columns at 1 and damping on the diagonal, float64 [G, K, K].
        inverse: its inverse.
        dead: inputs that were always zero, bool [G, K].
        damping: what was added, relative to the mean of the live diagonal; more than asked for where that was singular.
    """

    hessian: Tensor
    inverse: Tensor
    dead: Tensor
    damping: float


@dataclass(frozen=True)
class PrunedRows:
    """What a layer became.

    Attributes:
        weight: float64 [G, O, K]; its zeros are the mask.
        loss: increase of the layer's squared output error (mean over samples), by the Hessian without damping.
        damping: that was used, see `DampedHessian`.
    """

    weight: Tensor
    loss: float
    damping: float


def damped_hessian(hessian_GKK: Tensor, damping: float = DAMPING) -> DampedHessian:
    """Return a Hessian with its inverse, damped until a Cholesky factor exists.

    Columns with zero on the diagonal are dead: the input was never there. They are set to 1 and stand alone.

    Raises: StageError when the Hessian is not finite, or singular with `LARGEST_DAMPING` still.
    """
    if not bool(hessian_GKK.isfinite().all()):
        raise StageError("The Hessian of a layer's inputs is not finite: the network's activations overflow.")
    diagonal = hessian_GKK.diagonal(dim1=1, dim2=2)
    dead = diagonal == 0
    alive = (~dead).sum(1).clamp(min=1)
    mean = diagonal.sum(1) / alive
    used = damping
    while True:
        added = torch.where(dead, 1.0, used * mean[:, None])
        damped = hessian_GKK + torch.diag_embed(added)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed.any()):
            return DampedHessian(damped, torch.cholesky_inverse(factor), dead, used)
        if used >= LARGEST_DAMPING:
            raise StageError(f"The Hessian of a layer's inputs is singular with a damping of {used:g} still.")
        used = max(10 * used, 1e-6)


def row_traces(
    weight_GOK: Tensor, damped: DampedHessian, *, pattern: tuple[int, int] | None = None, rows: int | None = None
) -> RowTraces:
    """Return in which order the weights of all rows leave, [G * O, steps]; see `eliminate_rows`.

    Weights of dead columns cost nothing and leave first.
    """
    alive = weight_GOK.masked_fill(damped.dead[:, None], 0.0)
    parts = [
        eliminate_rows(weight, inverse[None], pattern=pattern, rows=rows)
        for weight, inverse in zip(alive, damped.inverse, strict=True)
    ]
    return RowTraces(*(torch.cat([getattr(part, name) for part in parts]) for name in ("losses", "columns")))


def refit_rows(weight_GOK: Tensor, support_GOK: Tensor, hessian_GKK: Tensor) -> Tensor:
    """Return the weights on a support that change the layer's outputs least: H_SS w'_S = H_S: w, row by row.

    Raises: StageError when a support's own Hessian is singular: damp it first.
    """
    new = weight_GOK * support_GOK
    for weight, support, hessian, result in zip(weight_GOK, support_GOK, hessian_GKK, new, strict=True):
        products = weight @ hessian
        for row, kept in enumerate(support):
            places = kept.nonzero()[:, 0]
            if len(places) and bool((weight[row] != result[row]).any()):  # else nothing has left
                factor, failed = torch.linalg.cholesky_ex(hessian[places[:, None], places])
                if bool(failed):
                    raise StageError("The Hessian of the weights that stay is singular: use a larger damping.")
                result[row, places] = torch.cholesky_solve(products[row, places][:, None], factor)[:, 0]
    return new


def output_loss(change_GOK: Tensor, hessian_GKK: Tensor) -> float:
    """Return the change of the layer's squared outputs d^T H d / 2, summed over rows."""
    return float(((change_GOK @ hessian_GKK) * change_GOK).sum() / 2)


def refit_kept(weight_GOK: Tensor, kept_GOK: Tensor, hessian_GKK: Tensor, damped: DampedHessian) -> PrunedRows:
    """Return a layer with the kept weights refitted; weights that were zero stay zero.

    Weights of dead columns that are kept stay as they are, since no input says what they should be.
    """
    kept = kept_GOK & (weight_GOK != 0)
    dead = damped.dead[:, None].expand_as(kept)
    alive = refit_rows(weight_GOK.masked_fill(dead, 0.0), kept & ~dead, damped.hessian)
    new = torch.where(kept & dead, weight_GOK, alive)
    return PrunedRows(new, output_loss(new - weight_GOK, hessian_GKK), damped.damping)


def prune_rows(
    weight_GOK: Tensor,
    hessian_GKK: Tensor,
    amount: float | tuple[int, int],
    *,
    damping: float = DAMPING,
    rows: int | None = None,
) -> PrunedRows:
    """Prune one layer by exact OBS.

    Args:
        weight_GOK: float64 [G, O, K], see `weight_matrix`.
        hessian_GKK: see `input_hessians`.
        amount: the density, which the layer gets to the weight, rows as they come cheapest; or (n, m), which each run
            of m columns gets. Where more weights are zero already, these all stay zero.
        damping: of the Hessian, relative to the mean of its diagonal.
        rows: worked on together, see `eliminate_rows` for the bytes.

    Raises:
        InputError: the density is not within [0, 1], or the pattern does not divide the columns.
        StageError: see `damped_hessian`.
    """
    damped = damped_hessian(hessian_GKK, damping)
    pattern = amount if isinstance(amount, tuple) else None
    traces = row_traces(weight_GOK, damped, pattern=pattern, rows=rows)
    if isinstance(amount, tuple):
        steps = torch.full((len(traces.losses),), traces.losses.shape[1])
    else:
        steps = merge_traces([traces.losses], leaving_count(weight_GOK.numel(), amount))[0]
    kept = kept_support(traces, steps, weight_GOK.shape[2]).reshape(weight_GOK.shape)
    return refit_kept(weight_GOK, kept, hessian_GKK, damped)


def leaving_count(weights: int, density: float) -> int:
    """Return how many of `weights` leave at a density. Raises InputError when it is not within [0, 1]."""
    if not 0 <= density <= 1:
        raise InputError(f"A density of {density:g} is not within 0 and 1.")
    return weights - round(density * weights)
