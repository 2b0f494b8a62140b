"""A matrix as a product of two thinner ones: by plain SVD, or with the least error on the inputs that the layer gets.

Everything is float64. `weight` is [N, P]: N outputs of a layer, P inputs (of a convolution the values of one patch).
`gram` is [P, P], the mean of x xᵀ over inputs x; None stands for inputs that are not looked at, the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import linalg

if TYPE_CHECKING:
    from torch import Tensor

#: Of the mean of a Gram matrix's diagonal: what is added to it first, where inputs leave directions out.
_LEAST = 1e-6


@dataclass(frozen=True)
class FactoredMatrix:
    """weight = left @ right, cut at any rank: left[:, :r] @ right[:r].

    Attributes:
        left: [N, R], U√Σ.
        right: [R, P], √ΣVᵀ; of whitened inputs √ΣVᵀS⁻¹.
        values: [R], the singular values, largest first: what a rank r leaves out is the sum of values[r:]².
    """

    left: Tensor
    right: Tensor
    values: Tensor

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return left [N, rank] and right [rank, P]."""
        return self.left[:, :rank], self.right[:rank]


def whitening_root(gram: Tensor) -> Tensor:
    """Return S [P, P], lower triangular, with S Sᵀ = gram: its Cholesky factor.

    Where that is not positive definite, as of fewer inputs than dimensions, its diagonal is raised by a millionth of
    its mean, and by ten times as much until it is. Source: SVD-LLM (Wang et al. 2024), which raises it by an
    eigenvalue.

    Raises ValueError where the inputs are zero or not finite.
    """
    size = float(gram.diagonal().mean())
    if not size > 0 or not bool(gram.isfinite().all()):
        raise ValueError("the layer's inputs are zero or not finite")
    root, failed = linalg.cholesky_ex(gram)
    shift = _LEAST * size
    while int(failed):
        root, failed = linalg.cholesky_ex(gram + shift * torch.eye(len(gram), dtype=gram.dtype))
        shift *= 10
    return cast("Tensor", root)


def factor_matrix(weight: Tensor, root: Tensor | None = None) -> FactoredMatrix:
    """Return the SVD of `weight` as balanced factors; with `root` that of weight @ root, and the root undone.

    Of all products of this rank, the whitened one has the least mean squared error of the outputs W x; that error is
    the sum of the squared singular values that are cut (SVD-LLM, theorem 3.2). Both factors carry √Σ, so that one
    learning rate suits both.

    Cost: one SVD of [N, P], and with a root one triangular solve.
    """
    wide = weight.double()
    left, values, right = linalg.svd(wide if root is None else wide @ root, full_matrices=False)
    half = values.sqrt()
    right = half[:, None] * right
    if root is not None:  # right S⁻¹
        right = linalg.solve_triangular(root, right, upper=False, left=False)
    return FactoredMatrix(left * half, right, values)


def output_energy(weight: Tensor, gram: Tensor | None = None) -> float:
    """Return the mean of ‖W x‖² over the inputs: tr(W G Wᵀ); without a Gram matrix ‖W‖²."""
    wide = weight.double()
    return float(((wide if gram is None else wide @ gram) * wide).sum())


def relative_error(weight: Tensor, other: Tensor, gram: Tensor | None = None) -> float:
    """Return ‖(W - Ŵ) x‖² / ‖W x‖², both as means over the inputs. Raises ValueError where W x is zero."""
    whole = output_energy(weight, gram)
    if not whole > 0:
        raise ValueError("the layer's outputs are zero")
    return max(output_energy(weight.double() - other.double(), gram), 0.0) / whole


def fitted_left(weight: Tensor, features: Tensor, gram: Tensor | None = None) -> Tensor:
    """Return A [N, Q] with the least mean of ‖W x - A F x‖² for features F [Q, P]: a linear regression, closed form."""
    wide, seen = weight.double(), features.double()
    moved = seen if gram is None else seen @ gram  # F G
    return _solved(moved @ seen.T, moved @ wide.T).T


def explained_energy(weight: Tensor, features: Tensor, gram: Tensor | None = None) -> Tensor:
    """Return [Q]: how much of the mean of ‖W x‖² a regression on the first 1 ... Q features explains."""
    seen = features.double()
    return nested_energy(weight, seen, seen if gram is None else seen @ gram)


def nested_energy(weight: Tensor, features: Tensor, moved: Tensor) -> Tensor:
    """Return the same where `moved`, the features times the Gram matrix [Q, P], is known."""
    root = whitening_root(moved @ features.T)
    parts = linalg.solve_triangular(root, moved @ weight.double().T, upper=False)  # [Q, N]
    return cast("Tensor", parts.square().sum(1).cumsum(0))


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same product left [N, R] @ right [R, P] with each column as long as its row."""
    one, other = left.norm(dim=0), right.norm(dim=1)
    both = (one > 0) & (other > 0)
    scale = torch.where(both, (other / one.clamp_min(1e-300)).sqrt(), torch.ones_like(one))
    return left * scale, right / scale[:, None]


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Return matrix⁻¹ right for a symmetric matrix that is at least positive semi-definite."""
    return torch.cholesky_solve(right, whitening_root(matrix))
