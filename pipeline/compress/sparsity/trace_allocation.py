"""How many weights each layer loses, by what its own outputs lose: traces of all layers merged.

Source: Frantar et al., Optimal Brain Compression, NeurIPS 2022, whose layers get what a dynamic program over measured
errors says. Differs: losses relative to a layer's whole output stand for errors, and the cheapest next step of all
layers is taken, which is as good where losses grow from step to step. What a layer's error means for the network's
output is not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.sparsity.elimination import merge_traces
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def allocate_steps(losses: Mapping[str, Tensor], leaving: int) -> dict[str, Tensor]:
    """Return how many steps each row of each layer takes, int64 [R], so that `leaving` weights leave altogether.

    Args:
        losses: of each step in each row, float64 [R, S] by layer, to the end: their sum is the loss of a layer without
            any weight, by which they are divided.
        leaving: weights of all layers; each layer keeps one at least.

    Raises: InputError when that is more than all but one of each layer.
    """
    relative = {name: each / each.sum().clamp(min=torch.finfo(torch.float64).tiny) for name, each in losses.items()}
    highest = {name: each.cummax(1).values for name, each in relative.items()}
    for each in highest.values():
        each[each[:, -1].argmax(), -1] = torch.inf  # the layer's last weight
    spare = merge_traces([*highest.values()], leaving)
    found = dict(zip(losses, spare, strict=True))
    if empty := [name for name, steps in found.items() if int(steps.sum()) == losses[name].numel()]:
        raise InputError(f"A density that leaves layer {empty[0]} without a weight is too low: raise it.")
    return found
