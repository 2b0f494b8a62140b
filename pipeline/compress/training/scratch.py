"""A network of the same layers with new weights: the control that tells what the old ones are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.core.errors import InputError
from pipeline.core.problems import first_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn


def reset_weights(model: nn.Module, masks: Mapping[str, Tensor], seed: int) -> None:
    """Draw all weights of a network anew, in place, from a seed, as torch's layers do; masked ones stay zero.

    Source: training a pruned network from scratch, Liu et al. 2019. Layers start as `reset_parameters` of their class
    has it, for the widths that they have now; what a network's own code does to them beyond that is not repeated.

    Raises InputError where a parameter belongs to a class that has no `reset_parameters`, such as a bare nn.Parameter.
    """
    left = [
        f"{name}.{own}".removeprefix(".")
        for name, layer in model.named_modules()
        for own, _ in layer.named_parameters(recurse=False)
        if _reset_of(layer) is None
    ]
    if left:
        raise InputError(
            f"weights: scratch cannot draw {first_names(left)} anew, because the class of the layer has no "
            "reset_parameters(): give it one"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in model.modules():
            if reset := _reset_of(layer):
                reset()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0)


def _reset_of(layer: nn.Module) -> Callable[[], None] | None:
    """Return what draws a layer's own parameters; that of nn.MultiheadAttention is called _reset_parameters."""
    found = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    return found if callable(found) else None
