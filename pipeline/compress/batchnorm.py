"""Batch-norm statistics, taken anew after the weights have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn, no_grad

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def recalibrate(model: nn.Module, batches_NCHW: Iterable[Tensor]) -> None:
    """Replace running means and variances by their plain average over `batches_NCHW`; weights do not change.

    Source: the adaptive batch norm of EagleEye (Li et al. 2020). Costs one forward pass over the batches. Does nothing
    to a network without batch norm. The model is left in eval mode.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 (the only common class)
    momenta = [module.momentum for module in norms]
    model.eval()
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # cumulative average
        module.train()
    with no_grad():
        for batch in batches_NCHW:
            model(batch)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    model.eval()
