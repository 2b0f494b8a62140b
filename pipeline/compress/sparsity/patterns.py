"""Where zeros may lie: anywhere, N of every M input channels, or in blocks of output channels.

A pattern turns scores of weights into scores of the units that it keeps or cuts as a whole, and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.core.errors import InputError
from pipeline.core.problems import first_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipeline.compress.sparsity.layers import SparseLayer


@dataclass(frozen=True)
class Pattern:
    """`kept` of each `of` input channels, or blocks of `block` output channels; by default single weights.

    N:M looks at runs of M consecutive input channels, for each output channel and each position of the kernel (Mishra
    et al., "Accelerating Sparse Deep Neural Networks", 2021). A block is N consecutive output channels' kernels on the
    same input channel ("1xN Pattern for Pruning Convolutional Neural Networks", Lin et al. 2021, arXiv 2105.14713).
    """

    kept: int = 0
    of: int = 0
    block: int = 1

    @property
    def density(self) -> float | None:
        """The density that N:M gives; None where it is free."""
        return self.kept / self.of if self.of else None

    def require_fit(self, layers: Sequence[SparseLayer]) -> None:
        """Raise InputError where channels do not divide by the pattern, with the layers to name in `keep`."""
        size, what = (self.of, "input") if self.of else (self.block, "output")
        wrong = [
            f"{each.layer or each.name} ({width})"
            for each in layers
            if (width := each.weight.shape[each.inputs if self.of else each.outputs]) % size
        ]
        if wrong:
            named = f"{self.kept}:{self.of}" if self.of else f"1x{self.block}"
            raise InputError(
                f"pattern: {named} needs {what} channels that are multiples of {size}; found {first_names(wrong)}. "
                "Name these layers in keep, or use another pattern"
            )


#: Single weights.
ANYWHERE = Pattern()


def n_of_m_mask(scores: Tensor, kept: int, of: int, inputs: int) -> Tensor:
    """Return the mask that keeps the `kept` best of each run of `of` along the dimension `inputs`, which they divide.

    Ties go to the first.
    """
    moved = scores.movedim(inputs, -1)
    runs = moved.reshape(-1, of)
    chosen = torch.argsort(runs, dim=1, descending=True, stable=True)[:, :kept]
    mask = torch.zeros_like(runs, dtype=torch.bool).scatter_(1, chosen, value=True)
    return mask.reshape(moved.shape).movedim(-1, inputs)


def block_scores(scores: Tensor, block: int, outputs: int, inputs: int) -> Tensor:
    """Return the mean score [O / block, I] of blocks of output channels on one input channel, its kernel included."""
    ordered = scores.movedim((outputs, inputs), (0, 1))
    return ordered.reshape(ordered.shape[0] // block, block, ordered.shape[1], -1).mean((1, 3))


def spread_blocks(mask_BI: Tensor, shape: torch.Size, block: int, outputs: int, inputs: int) -> Tensor:
    """Return the mask of weights of this shape from that of their blocks."""
    kernel = [size for dim, size in enumerate(shape) if dim not in {outputs, inputs}]
    full = mask_BI.repeat_interleave(block, 0)
    full = full.reshape(*full.shape, *[1] * len(kernel)).expand(*full.shape, *kernel)
    return full.movedim((0, 1), (outputs, inputs)).contiguous()
