"""Image classifiers of the package transformers: `definition: transformers:ViTForImageClassification` in a recipe."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import transformers

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = "ForImageClassification"


def build(name: str, **arguments: object) -> nn.Module:
    """Return the network of that class with random weights; it maps images to logits.

    Tensor names are those of the class, so `model.safetensors` of a checkpoint loads as the recipe's weights.

    Args:
        name: a class of transformers that ends in ForImageClassification.
        arguments: what the class's configuration takes, such as num_labels, num_channels and image_size.

    Raises:
        ValueError: transformers has no such class; the message has the nearest names.
    """
    names = [each for each in dir(transformers) if each.endswith(SUFFIX)]
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, n=4, cutoff=0.5))
        message = f"transformers {transformers.__version__} has no network {name!r}; nearest: {near or 'none'}"
        raise ValueError(message)
    architecture = getattr(transformers, name)
    return logits_of(architecture)(architecture.config_class(**arguments))


def logits_of(architecture: type[nn.Module]) -> type[nn.Module]:
    """Return the class with a forward that takes the images alone and gives the logits alone."""

    class Network(architecture):  # type: ignore[misc, valid-type]
        def forward(self, images: Tensor) -> Tensor:
            """Map images [N, C, H, W] to logits [N, classes]."""
            return super().forward(images).logits

    return Network
