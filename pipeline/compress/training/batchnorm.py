"""Batch-norm statistics, taken anew after the weights have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import cat, nn, no_grad

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor


def recalibrate_batchnorm(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace running means and variances by their plain average over batches of all inputs; weights do not change.

    A last batch of one sample joins the one before: alone it has no variance, or that of a single sample.

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
        for batch in _without_single(batches):
            model(*batch)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    model.eval()


def _without_single(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches, a batch of one sample together with the one before it."""
    held: tuple[Tensor, ...] | None = None
    for batch in batches:
        if held is not None and len(batch[0]) == 1:
            batch = tuple(map(cat, zip(held, batch, strict=True)))  # noqa: PLW2901 - what was held is in it
        elif held is not None:
            yield held
        held = batch
    if held is not None:
        yield held
