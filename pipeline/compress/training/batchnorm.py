"""Batch-norm statistics, taken anew after the weights have changed."""

from __future__ import annotations

from contextlib import contextmanager
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
    norms = _norms(model)
    if not norms:
        model.eval()
        return
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


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block batch norms use the statistics of each batch, and those that they keep do not change.

    The rest of the model stays in the mode that it is in.
    """
    norms = [module for module in _norms(model) if not module.training]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.train()
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.eval()
            module.momentum = momentum


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 (the only common class)


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
