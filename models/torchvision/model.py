"""Networks of the package torchvision, by name; a recipe writes `definition: torchvision:mobilenet_v3_small`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import torchvision

if TYPE_CHECKING:
    from torch import nn


def build(name: str, *, pretrained: bool = False, **arguments: object) -> nn.Module:
    """Return the network of that name with random weights, or with `pretrained` the best that torchvision downloads.

    Args:
        name: a name that `torchvision.models.list_models()` has.
        pretrained: load torchvision's weights; needs a network connection unless they are in its cache.
        arguments: what the network's own function takes, such as num_classes.

    Raises:
        ValueError: torchvision has no such network; the message has the nearest names.
    """
    names = torchvision.models.list_models()
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, n=4, cutoff=0.5))
        message = f"torchvision {torchvision.__version__} has no network {name!r}; nearest: {near or 'none'}"
        raise ValueError(message)
    return torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **arguments)
