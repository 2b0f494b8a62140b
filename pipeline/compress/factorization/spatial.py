"""A KxK convolution as Kx1 and then 1xK. Source: Jaderberg et al. 2014, scheme 2; by SVD as Tai et al. 2016.

The kernel [N, C, Kh, Kw] is a matrix of (N·Kw) by (C·Kh), whose rows of one column of the kernel meet the same inputs.
With a Gram matrix of whole patches [P, P], P = C·Kh·Kw, the first leg comes from the SVD whitened by the mean Gram
matrix of a patch's columns, and the second is a regression of the layer's true outputs on what the first one gives: the
SVD alone would take the columns' errors for independent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.factorization.matrices import (
    balanced,
    factor_matrix,
    fitted_left,
    nested_energy,
    whitening_root,
)

if TYPE_CHECKING:
    from torch import Tensor


def factor_spatial(weight: Tensor, rank: int, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the legs' weights [rank, C, Kh, 1] and [N, rank, 1, Kw], float64. Cost: one SVD, one regression."""
    outputs, inputs, high, wide = weight.shape
    first = _first_leg(weight, gram)[:rank]
    fitted = fitted_left(weight.flatten(1), _features(first, wide), gram)  # [N, rank·Kw]
    columns = fitted.reshape(outputs, rank, wide).permute(0, 2, 1).reshape(-1, rank)
    columns, first = balanced(columns, first)
    last = columns.reshape(outputs, wide, rank).permute(0, 2, 1)
    return first.reshape(rank, inputs, high, 1), last.reshape(outputs, rank, 1, wide)


def spatial_energies(weight: Tensor, most: int, gram: Tensor | None = None) -> Tensor:
    """Return [R]: how much of the output's energy each rank 1 ... R keeps, R = min(most, C·Kh, N·Kw)."""
    wide = weight.shape[3]
    first = _first_leg(weight, gram)[:most]
    features = _features(first, wide)
    moved = features
    if gram is not None:  # each feature reads one column of a patch
        blocks = gram.reshape(-1, wide, len(gram))
        moved = torch.stack([first @ blocks[:, each] for each in range(wide)], 1).flatten(0, 1)
    return nested_energy(weight.flatten(1), features, moved)[wide - 1 :: wide]


def _first_leg(weight: Tensor, gram: Tensor | None) -> Tensor:
    """Return [R, C·Kh], the best first."""
    _, inputs, high, wide = weight.shape
    matrix = weight.permute(0, 3, 1, 2).reshape(-1, inputs * high)
    root = None if gram is None else whitening_root(_column_gram(gram, inputs * high, wide))
    return factor_matrix(matrix, root).right


def _column_gram(gram: Tensor, column: int, wide: int) -> Tensor:
    """Return [C·Kh, C·Kh], the mean over the columns of a patch."""
    blocks = gram.reshape(column, wide, column, wide)
    return torch.stack([blocks[:, each, :, each] for each in range(wide)]).mean(0)


def _features(first: Tensor, wide: int) -> Tensor:
    """Return [R·Kw, P]: what the first leg gives in each column of a patch, the columns of one rank together."""
    same = torch.eye(wide, dtype=first.dtype)
    return torch.einsum("rc,ab->racb", first, same).reshape(len(first) * wide, -1)
