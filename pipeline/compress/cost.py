"""Multiply-accumulate operations and parameters of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.utils.flop_counter import FlopCounterMode

from pipeline.compress.inference import outputs

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """What one image costs."""

    macs: int
    parameters: int


def count(model: nn.Module, example: Tensor) -> Cost:
    """Count the multiply-accumulates of one image and the parameters of a network.

    Counted: convolutions, linear layers, matrix products and attention, on the operators that really run; as many as
    the dense arithmetic has, padding included. Not counted: biases, norms, activations, pooling, recurrent layers.
    A parameter that layers share counts once; buffers do not count.

    Args:
        model: the network; it is not changed.
        example: an input [batch, ...] of which the first image is used.

    Cost: one forward pass of one image.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        outputs(model, example[:1])
    return Cost(macs=counter.get_total_flops() // 2, parameters=sum(tensor.numel() for tensor in model.parameters()))
