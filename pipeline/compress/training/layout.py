"""How images and weights lie in memory while a network is trained: as convolutions are fastest, where its code can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.untouched import restored_afterwards
from pipeline.compress.training.inference import inference_mode, seeded_random

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    Inputs = tuple[Tensor, ...]

#: Dimensions of images [N, C, H, W], which alone have a layout of channels.
_IMAGES = 4


def for_kernels(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """Lay images [N, C, H, W] out as asked; anything else as it is."""
    return tensor.contiguous(memory_format=layout) if tensor.ndim == _IMAGES else tensor


def fitting_layout(model: nn.Module, run: Callable[[Inputs], object], inputs: Inputs) -> torch.memory_format:
    """Return channels last, unless `run(inputs)` fails so and works with contiguous tensors: then these.

    Code that takes the result of a convolution apart by `view` wants it contiguous. What fails both ways is told by
    the training itself. The network's weights then lie as was tried last, and it is otherwise what it was.

    Cost: a forward pass where there are images; two where the first fails.
    """
    if all(each.ndim != _IMAGES for each in inputs):
        return torch.channels_last
    ways = (torch.channels_last, torch.contiguous_format)
    return next((layout for layout in ways if _runs(model, run, inputs, layout)), torch.channels_last)


def _runs(model: nn.Module, run: Callable[[Inputs], object], inputs: Inputs, layout: torch.memory_format) -> bool:
    model.to(memory_format=layout)  # type: ignore[call-overload]
    try:
        with restored_afterwards(model), inference_mode(model), seeded_random():
            run(tuple(for_kernels(each, layout).clone() for each in inputs))
    except Exception:  # noqa: BLE001 - whatever the network's code raises, it does not run so
        return False
    return True
