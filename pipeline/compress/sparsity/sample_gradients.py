"""Gradients of the loss of one sample at a time, by the weights that may become zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.gradients import differentiable_weights
from pipeline.compress.pruning.importance.request import sample_copies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from pipeline.compress.sparsity.request import SparsityRequest


def sample_gradients(request: SparsityRequest, at_once: int) -> Iterator[dict[str, Tensor]]:
    """Yield gradients of single samples' losses, [m, d] by parameter, `at_once` together; the last are fewer.

    Cost: one forward and backward pass for each sample, in evaluation mode; the network is left as it was.
    Raises: InputError when targets of samples cannot be told apart.
    """
    names = [each.name for each in request.layers]
    tensors = [each.weight for each in request.layers]
    held: list[Sequence[Tensor]] = []
    for batch in request.samples.for_loss():
        for inputs, targets in sample_copies(batch, 1):
            with torch.enable_grad(), differentiable_weights(tensors):
                given = inputs if isinstance(inputs, tuple) else (inputs,)
                value = request.samples.loss(request.model(*given), targets)
                held.append(torch.autograd.grad(value, tensors, materialize_grads=True))
            if len(held) == at_once:
                yield _stacked(names, held)
                held = []
    if held:
        yield _stacked(names, held)


def _stacked(names: Sequence[str], held: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([each.reshape(-1) for each in column])
        for name, column in zip(names, zip(*held, strict=True), strict=True)
    }
