"""Gradients of weights."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.graph.capture import record_outputs
from pipeline.compress.pruning.importance.request import input_tuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batch, Loss


@contextmanager
def differentiable_weights(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Within the block all parameters of floating point ask for gradients, the frozen ones included."""
    before = [(tensor, tensor.requires_grad) for tensor in parameters if tensor.is_floating_point()]
    try:
        for tensor, _ in before:
            tensor.requires_grad_()
        yield
    finally:
        for tensor, flag in before:
            tensor.requires_grad_(flag)


def scored_weights(captured: CapturedGraph, graph: ChannelGraph) -> dict[str, Tensor]:
    """Return the parameters by name that the groups own slices of."""
    parameters = dict(captured.module.named_parameters())
    names = dict.fromkeys(member.tensor for group in graph.groups for member in group.members)
    return {name: parameters[name] for name in names if name in parameters}


def weight_gradients(
    captured: CapturedGraph, weights: dict[str, Tensor], batch: Batch, loss: Loss
) -> dict[str, Tensor]:
    """Return the gradient of the batch's loss by each weight, in evaluation mode; zeros where there is none.

    Cost: one forward and backward pass. The weights' own `.grad` is left alone.
    """
    inputs, targets = batch
    with torch.enable_grad(), differentiable_weights(weights.values()):
        value = loss(record_outputs(captured, (), input_tuple(inputs))[1], targets)
        found = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    return dict(zip(weights, found, strict=True))
