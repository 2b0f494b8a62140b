"""OBS on the loss of the whole network, with the empirical Fisher matrix in blocks of weights for the Hessian.

Source: Singh and Alistarh, WoodFisher, NeurIPS 2020: F = damping * I + (1 / N) sum of g g^T over gradients of single
samples, whose inverse follows by rank-1 updates (Sherman and Morrison, the Woodbury identity). Differs: within a block
weights leave one at a time, each step knowing those before, and the others make up for all of them together. It sees
what the loss needs, not only a layer's outputs, and needs labels. The empirical Fisher matrix is near the Hessian only
near a minimum; far steps are better taken in rounds, with gradients of their own. Blocks know nothing of each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from pipeline.compress.sparsity.elimination import eliminate_rows, kept_support, merge_traces
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

#: Weights in one block, and damping relative to the mean squared gradient.
BLOCK, DAMPING = 50, 0.01
#: Bytes of inverse blocks that are updated by all gradients before the next: a part of a processor's cache.
_CACHED_BYTES = 2**20


def weight_blocks(values: Tensor, block: int = BLOCK) -> Tensor:
    """Return a tensor of weights, or [N, ...] gradients flattened to [N, d], as float64 blocks [..., n, block].

    The last block is filled up with zeros: a weight that is zero and has no gradient changes nothing.
    """
    filled = functional.pad(values.double(), (0, -values.shape[-1] % block))
    return filled.reshape(*values.shape[:-1], -1, block)


def fisher_bytes(weights: int, block: int = BLOCK) -> int:
    """Return the bytes of the inverse blocks of so many weights: 8 * block each (50: 400 bytes for each weight)."""
    return 8 * block * block * -(-weights // block)


def initial_inverses(blocks: int, block: int, damping: float) -> Tensor:
    """Return the inverse of damping * I, float64 [blocks, block, block]. Raises StageError when it is not above 0."""
    if not damping > 0:
        raise StageError("All gradients are zero: the loss does not depend on these weights where it is looked at.")
    return torch.eye(block, dtype=torch.float64).expand(blocks, -1, -1) / damping


def add_gradients(inverses_NBB: Tensor, gradients_MNB: Tensor, total: int) -> None:
    """Take gradients into inverse blocks in place: F^-1 <- F^-1 - F^-1 g g^T F^-1 / (total + g^T F^-1 g).

    Args:
        inverses_NBB: float64, contiguous.
        gradients_MNB: of m samples, `weight_blocks`.
        total: gradients that there will be altogether, the N of the mean.

    Raises: StageError when a gradient is not finite.
    Cost: 2 * block multiply-adds for each weight and gradient.
    """
    if not bool(gradients_MNB.isfinite().all()):
        raise StageError("A sample's gradient is not finite.")
    at_once = max(1, _CACHED_BYTES // (8 * inverses_NBB.shape[1] ** 2))
    for start in range(0, len(inverses_NBB), at_once):
        inverses = inverses_NBB[start : start + at_once]
        for gradient in gradients_MNB[:, start : start + at_once]:
            moved = (inverses @ gradient[:, :, None])[:, :, 0]
            scale = total + (gradient * moved).sum(1)
            inverses.baddbmm_(moved[:, :, None], (moved / scale[:, None])[:, None], alpha=-1)


def compensate_blocks(weight_NB: Tensor, kept_NB: Tensor, inverses_NBB: Tensor) -> tuple[Tensor, float]:
    """Return the blocks without what is not kept, and the predicted increase of the loss.

    With Q what leaves of a block: d = -F^-1_:Q (F^-1_QQ)^-1 w_Q, and the loss rises by w_Q^T (F^-1_QQ)^-1 w_Q / 2.
    Weights that are zero stay zero, whatever they are in `kept_NB`.

    Source: WoodFisher, equation for several weights; Kurtic et al., oBERT, 2022, equation 6.
    """
    leaves = ~kept_NB | (weight_NB == 0)
    both = leaves[:, :, None] & leaves[:, None]
    apart = torch.diag_embed((~leaves).double())
    gone = weight_NB * leaves
    factors = torch.linalg.solve(torch.where(both, inverses_NBB, apart), gone)
    new = weight_NB - (inverses_NBB @ factors[:, :, None])[:, :, 0]
    return new.masked_fill(leaves, 0.0), float((gone * factors).sum() / 2)


def prune_blocks(
    weights: Mapping[str, Tensor], inverses: Mapping[str, Tensor], leaving: int
) -> tuple[dict[str, Tensor], float]:
    """Take `leaving` weights out of all layers together, the cheapest for the loss first.

    Args:
        weights: by layer, flat [d]; those that are zero count as leaving, first.
        inverses: of the blocks of each, float64 [ceil(d / B), B, B].
        leaving: how many weights are zero at the end; where more are already, these all stay.

    Returns:
        The new weights, float64 [d] by layer, and the predicted increase of the loss.

    Raises:
        InputError: there are fewer weights than `leaving`.
    """
    blocks = {name: weight_blocks(weight, inverses[name].shape[1]) for name, weight in weights.items()}
    traces = {name: eliminate_rows(blocks[name], inverses[name]) for name in blocks}
    filled = sum(blocks[name].numel() - weight.numel() for name, weight in weights.items())
    steps = merge_traces([trace.losses for trace in traces.values()], leaving + filled)
    new, total = {}, 0.0
    for (name, trace), taken in zip(traces.items(), steps, strict=True):
        kept = kept_support(trace, taken, blocks[name].shape[1])
        values, loss = compensate_blocks(blocks[name], kept, inverses[name])
        new[name] = values.reshape(-1)[: len(weights[name])]
        total += loss
    return new, total
