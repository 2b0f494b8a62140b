"""Gradients of gates: what each sample's loss does when a channel is scaled, summed over everything coupled to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.gradients import differentiable_weights
from pipeline.compress.pruning.importance.request import input_tuple
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pipeline.compress.pruning.graph import FeatureMap
    from pipeline.compress.pruning.importance.feature_maps import FeatureMaps
    from pipeline.compress.pruning.importance.request import Batch, Batches, Loss


def gate_gradients(maps: FeatureMaps, batches: Batches, loss: Loss) -> Iterator[dict[str, Tensor]]:
    """Yield for each batch the derivative of each sample's loss by each channel's gate, float64 [N, width] by group.

    A gate g = 1 multiplies a channel in all feature maps of its group, so dL/dg is the sum of a * dL/da over these maps
    and their pixels. To first order -dL/dg is the change of the loss when the channel is removed. `loss` is the mean
    over the batch: its gradients are multiplied by N.

    Raises: StageError when a map does not depend on the batch, so that it has no gradient for each sample.
    Cost: one forward and backward pass for each batch; holds the activations of one batch.
    """
    for batch in batches:
        yield _of_batch(maps, batch, loss)


def _of_batch(maps: FeatureMaps, batch: Batch, loss: Loss) -> dict[str, Tensor]:
    inputs, targets = input_tuple(batch[0]), batch[1]
    with torch.enable_grad(), differentiable_weights(maps.captured.module.parameters()):
        values, outputs = maps.record(inputs)
        _demand_samples(maps)
        wanted = [values[node] for node in maps.nodes]
        gradients = torch.autograd.grad(loss(outputs, targets), wanted, materialize_grads=True)
    slopes = dict(zip(maps.nodes, gradients, strict=True))

    def effect(each: FeatureMap) -> Tensor:
        product = maps.arranged(values[each.node].detach() * slopes[each.node], each, len(inputs[0]))
        return product.flatten(2).sum(2, dtype=torch.float64).cpu() * len(inputs[0])

    return {name: torch.stack([effect(each) for each in found]).sum(0) for name, found in maps.by_group.items()}


def _demand_samples(maps: FeatureMaps) -> None:
    alike = [name for name, found in maps.by_group.items() if not all(maps.of_samples(each.node) for each in found)]
    if alike:
        raise StageError(
            f"The feature maps of {', '.join(alike)} do not depend on the batch, so no gradient belongs to one sample. "
            "Name these layers in `keep`, or choose another criterion."
        )
