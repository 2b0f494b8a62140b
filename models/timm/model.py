"""Networks of the package timm, by name; a recipe writes `definition: timm:resnet50`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import timm

if TYPE_CHECKING:
    from torch import nn


def build(name: str, *, pretrained: bool = False, **arguments: object) -> nn.Module:
    """Return the network of that name with random weights, or with `pretrained` those that timm downloads.

    Args:
        name: a name that `timm.list_models()` has, a tag included where there is one: `resnet50.a1_in1k`.
        pretrained: load timm's weights; needs a network connection unless they are in its cache.
        arguments: what `timm.create_model` takes, such as num_classes and in_chans.

    Raises:
        ValueError: timm has no such network; the message has the nearest names.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5))
        message = f"timm {timm.__version__} has no network {name!r}; nearest: {near or 'none'}"
        raise ValueError(message)
    return timm.create_model(name, pretrained=pretrained, **arguments)
