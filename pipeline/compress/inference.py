"""Running a network for its outputs alone, whatever mode it was in before."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Within the block: dropout off, batch norm on its running statistics, no gradients. Modes are then restored."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


def outputs(model: nn.Module, batch: Tensor) -> tuple[Tensor, ...]:
    """Return every tensor that the network returns for `batch`, in order; containers are flattened."""
    with inference(model):
        return tuple(leaf for leaf in tree_leaves(model(batch)) if isinstance(leaf, torch.Tensor))
