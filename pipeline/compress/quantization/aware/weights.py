"""The weights of one layer while they are trained: a convolution and the batch norm that is folded into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

TINY = 1e-12
#: Folded weights may differ from the file's by this share of the largest one: the file's were rounded on the way.
NEAR = 1e-4


class TrainedWeights(nn.Module):
    """The trained weights and bias of one layer.

    With a batch norm, what is trained are the convolution's own weights and the norm's; the file has their product.
    Weights that are zero at the start can be held there.
    """

    core: Tensor
    offset: Tensor | None
    mask: Tensor | None

    def __init__(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        norm: tuple[nn.Module, nn.Module] | None,
        *,
        keep_zeros: bool,
    ) -> None:
        """Take weights and bias as the file has them, and the convolution and batch norm that they were folded from.

        A batch norm is left out when weights and bias are not what folding would make of it: something stands between.
        """
        super().__init__()
        stored, offset = torch.from_numpy(weight.copy()), None if bias is None else torch.from_numpy(bias.copy())
        self.norm: nn.Module | None = None
        self._start(stored, offset, keep_zeros=keep_zeros)
        if norm is not None:
            convolution, self.norm = norm
            own = convolution.bias
            start = convolution.weight.detach().clone()  # type: ignore[operator]
            self._start(start, own.detach().clone() if isinstance(own, Tensor) else None, keep_zeros=keep_zeros)
            if not self._is(stored, offset):
                self.norm = None
                self._start(stored, offset, keep_zeros=keep_zeros)

    def weight(self) -> Tensor:
        """Return the weights as they ship, before rounding."""
        core = self.core if self.mask is None else self.core * self.mask
        return core if self.norm is None else core * self._factor().reshape(-1, *[1] * (core.dim() - 1))

    def bias(self) -> Tensor | None:
        """Return the bias as it ships, before rounding."""
        if self.norm is None:
            return self.offset
        mean: Tensor = self.norm.running_mean  # type: ignore[assignment]
        shift: Tensor = self.norm.bias  # type: ignore[assignment]
        return shift - (mean if self.offset is None else mean - self.offset) * self._factor()

    def normalised(self, call: Callable[[Tensor], Tensor], rounded: Tensor) -> Tensor:
        """Return the layer's output normalised by the statistics of its batch, which renew the running ones.

        `call` takes weights to the layer's output; `rounded` are those of `weight` after rounding, from which the
        scaling by running statistics is taken back.
        """
        assert self.norm is not None  # noqa: S101 - for the type checker
        factor = self._factor()
        safe = torch.where(factor.abs() < TINY, torch.full_like(factor, TINY), factor)
        made = call(rounded)
        along = (1, -1, *[1] * (made.dim() - 2))
        plain = made / safe.reshape(along)
        output: Tensor = self.norm(plain if self.offset is None else plain + self.offset.reshape(along))
        return output

    def _start(self, weight: Tensor, bias: Tensor | None, *, keep_zeros: bool) -> None:
        self.register_parameter("core", nn.Parameter(weight))
        self.register_parameter("offset", None if bias is None else nn.Parameter(bias))
        zeros = weight == 0
        self.register_buffer("mask", (~zeros).float() if keep_zeros and bool(zeros.any()) else None)

    def _is(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Return whether folding gives these weights and this bias."""
        with torch.no_grad():
            own, offset = self.weight(), self.bias()
        if bias is None or offset is None or own.shape != weight.shape:
            return False
        shift: Tensor = self.norm.bias  # type: ignore[union-attr, assignment]
        sizes = float(weight.abs().max()), float(torch.cat([bias.abs(), shift.detach().abs()]).max())
        distances = float((own - weight).abs().max()), float((offset - bias).abs().max())
        return all(distance <= NEAR * size for distance, size in zip(distances, sizes, strict=True))

    def _factor(self) -> Tensor:
        """Return what the running statistics and the norm's weight make of each channel."""
        assert self.norm is not None  # noqa: S101 - for the type checker
        variance: Tensor = self.norm.running_var  # type: ignore[assignment]
        epsilon: float = self.norm.eps  # type: ignore[assignment]
        return self.norm.weight / torch.sqrt(variance + epsilon)  # type: ignore[operator, arg-type]
