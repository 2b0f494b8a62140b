"""Batch-norm statistics after weights have changed: moved by what the change did, not taken anew.

Source: the correction of means and variances of Frantar et al., Optimal Brain Compression, NeurIPS 2022, appendix, for
the statistics that a network keeps. Statistics taken anew from a few plain images differ from those of a training with
augmented ones even where no weight has changed; what the same images give before and after does not.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.compress.training.batchnorm import recalibrate_batchnorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

#: The variance of a channel that does not vary is below this.
_LEAST = 1e-12


def correct_statistics(
    model: nn.Module, before: nn.Module, batches: Callable[[], Iterable[tuple[Tensor, ...]]]
) -> bool:
    """Move a network's running statistics by what its new weights did to them; return whether it has any.

    With m, v of the images by the new network and m', v' by the one before: m + (mean - m') * sqrt(v / v') and
    var * v / v', so that what was kept lies as many deviations from the images' as before. A network whose weights are
    those of `before` stays as it is; a channel that does not vary any more has its value for the mean.

    Args:
        model: changed in place, left in eval mode.
        before: the network with its old weights, of the same structure; not changed.
        batches: starts a pass over all inputs, batch by batch.

    Cost: a forward pass by either network.
    """
    moved = _statistics(model)
    if not moved:
        return False
    old = deepcopy(before)
    kept = [tuple(each.clone() for each in statistics) for statistics in _statistics(old)]
    for network in (model, old):
        recalibrate_batchnorm(network, batches())
    for (mean, variance, count), plain, stored in zip(moved, _statistics(old), kept, strict=True):
        ratio = variance.double() / plain[1].double().clamp(min=_LEAST)
        apart = (stored[0].double() - plain[0].double()) * ratio.sqrt()
        varied = plain[1] > _LEAST  # else nothing is known of a channel but what it has become
        mean.copy_(torch.where(varied, mean + apart, mean))
        variance.copy_(torch.where(varied, stored[1] * ratio, variance))
        count.copy_(stored[2])
    return True


def _statistics(model: nn.Module) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return mean, variance and number of batches of the batch norms that keep them."""
    return [
        (module.running_mean, module.running_var, module.num_batches_tracked)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - the only common class
        and module.running_mean is not None
        and module.running_var is not None
        and module.num_batches_tracked is not None
    ]
