"""The logits of a network that returns more while it trains: auxiliary heads, as GoogLeNet and Inception have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pipeline.compress.training.inference import inference_mode
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

#: Images on which the outputs of both modes are compared.
IMAGES = 4


class MainOutput:
    """Finds the output that evaluation returns among those of training, once; the others are left alone."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._place: int | None = None

    def logits(self, model: nn.Module, images_NCHW: Tensor) -> Tensor:
        """Return the logits [N, classes] of a network in training mode, whatever container they are in.

        Raises InputError when no output has that shape.
        """
        result = model(images_NCHW)
        if isinstance(result, Tensor):
            return result
        found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        fitting = [place for place, each in enumerate(found) if each.shape == (len(images_NCHW), self.classes)]
        if not fitting:
            shapes = ", ".join(str(tuple(each.shape)) for each in found) or "no tensor"
            raise InputError(
                f"in training mode the network returns {type(result).__name__} of {shapes}; expected the logits "
                f"({len(images_NCHW)}, {self.classes}), alone or first among the outputs of auxiliary heads"
            )
        if self._place is None:
            self._place = _same_as_in_evaluation(model, images_NCHW[:IMAGES], fitting)
        return found[self._place]


def _same_as_in_evaluation(model: nn.Module, images_NCHW: Tensor, fitting: list[int]) -> int:
    """Return which output of training is that of evaluation; the first that fits where none can be told.

    With torch's own layers (dropout, norms) in evaluation and all others in training, the main output is the same.
    """
    if len(fitting) == 1:
        return fitting[0]
    with inference_mode(model):
        expected = model(images_NCHW)
        for module in model.modules():
            module.training = not type(module).__module__.startswith("torch.nn.")
        found = [leaf for leaf in tree_leaves(model(images_NCHW)) if isinstance(leaf, Tensor)]
    same = [place for place in fitting if place < len(found) and torch.equal(found[place], expected)]
    return same[0] if same else fitting[0]
