"""A KxK convolution as 1x1, KxK and 1x1: a Tucker decomposition of its two modes of channels.

Source: Kim et al. 2016 (arXiv 1511.06530); HOOI by De Lathauwer et al. 2000. With a Gram matrix of patches the mode of
input channels is whitened by the mean Gram matrix of a patch's positions, and the last leg is a regression of the
layer's true outputs on what the first two give.

Limits: one kernel axis or more; ranks are given (their paper's variational ones are often too low).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import linalg

from pipeline.compress.factorization.matrices import balanced, explained_energy, fitted_left, whitening_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Rounds of HOOI, which ends earlier once a round keeps no more than this share of the energy in addition.
_ROUNDS, _GAIN = 50, 1e-9


def factor_tucker(weight: Tensor, ranks: tuple[int, int], gram: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the legs' weights [r, C, 1..], [s, r, K..] and [N, s, 1..] for `ranks` (r, s), float64.

    Cost: two SVDs a round of HOOI, and one regression.
    """
    kernel = weight.shape[2:]
    flat = weight.double().flatten(2)  # [N, C, k]
    root = _channel_root(flat, gram)
    outer, inner = hooi_bases(torch.einsum("nck,cd->ndk", flat, root), ranks)
    core = torch.einsum("nck,cd,no,di->oik", flat, root, outer, inner)
    first = linalg.solve_triangular(root, inner.T.contiguous(), upper=False, left=False)  # Bᵀ S⁻¹
    features = torch.einsum("oik,ic->ock", core, first).flatten(1)
    return _balanced_legs(first, core, fitted_left(weight.flatten(1), features, gram), kernel)


def hooi_bases(tensor: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return orthonormal bases [N, s] and [C, r] that keep the most of a tensor [N, C, k], for `ranks` (r, s).

    Higher-order orthogonal iteration: each basis in turn is the best for the other one; it begins with the HOSVD.
    """
    least_in, least_out = ranks
    inner = _basis(tensor.transpose(0, 1), least_in)
    kept = 0.0
    whole = float(tensor.square().sum())
    for _ in range(_ROUNDS):
        outer = _basis(torch.einsum("nck,ci->nik", tensor, inner), least_out)
        narrow = torch.einsum("nck,no->cok", tensor, outer)
        inner = _basis(narrow, least_in)
        now = float(torch.einsum("cok,ci->iok", narrow, inner).square().sum())
        if now - kept <= _GAIN * whole:
            break
        kept = now
    return outer, inner


def tucker_energies(weight: Tensor, inner_ranks: Sequence[int], gram: Tensor | None = None) -> dict[int, Tensor]:
    """Return for each r of `inner_ranks` [N]: how much of the output's energy the ranks (r, 1 ... N) keep.

    Of the HOSVD, whose bases are nested; HOOI, which begins with it, keeps about as much or more.
    """
    flat = weight.double().flatten(2)
    root = _channel_root(flat, gram)
    whitened = torch.einsum("nck,cd->ndk", flat, root)
    inner, outer = _basis(whitened.transpose(0, 1), flat.shape[1]), _basis(whitened, len(flat))
    turned = torch.einsum("ndk,di->nik", whitened, inner)
    seen = (
        None
        if gram is None
        else _turned_gram(gram, linalg.solve_triangular(root, inner.T.contiguous(), upper=False, left=False))
    )
    found = {}
    for rank in inner_ranks:
        features = torch.einsum("nik,no->oik", turned, outer)
        features[:, rank:] = 0
        found[rank] = explained_energy(turned.flatten(1), features.flatten(1), seen)
    return found


def _channel_root(flat: Tensor, gram: Tensor | None) -> Tensor:
    """Return S [C, C] of the mean over a patch's positions of the channels' Gram matrix."""
    channels, size = flat.shape[1:]
    if gram is None:
        return torch.eye(channels, dtype=flat.dtype)
    blocks = gram.reshape(channels, size, channels, size)
    return whitening_root(torch.stack([blocks[:, each, :, each] for each in range(size)]).mean(0))


def _turned_gram(gram: Tensor, first: Tensor) -> Tensor:
    """Return the Gram matrix [C·k, C·k] of patches whose channels went through `first` [C, C]."""
    channels = len(first)
    size = len(gram) // channels
    blocks = gram.reshape(channels, size, channels, size)
    return torch.einsum("ic,cadb,jd->iajb", first, blocks, first).reshape(len(gram), len(gram))


def _basis(tensor: Tensor, rank: int) -> Tensor:
    """Return the `rank` leading left singular vectors of a tensor's first mode, [size, rank]."""
    matrix = tensor.flatten(1)
    _, vectors = linalg.eigh(matrix @ matrix.T)
    return cast("Tensor", vectors.flip(1)[:, :rank])


def _balanced_legs(first: Tensor, core: Tensor, last: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return legs of which each row is as long as the column of the next one that reads it."""
    outputs, inputs, size = core.shape
    last, rows = balanced(last, core.flatten(1))
    across = rows.reshape(outputs, inputs, size).permute(0, 2, 1).reshape(-1, inputs)
    across, first = balanced(across, first)
    middle = across.reshape(outputs, size, inputs).permute(0, 2, 1)
    ones = [1] * len(kernel)
    return (
        first.reshape(inputs, -1, *ones),
        middle.reshape(outputs, inputs, *kernel),
        last.reshape(-1, outputs, *ones),
    )
