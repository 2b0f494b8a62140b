"""The networks of coverage.py: built without a download, with random weights in which a misplaced channel shows.

The list itself is coverage_models.yaml, written by coverage_list.py. Needs torchvision, timm and transformers;
README.md says how to install them.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from coverage_libraries import timm, torchvision
from coverage_transformers import CONFIGURED
from ruamel.yaml import YAML
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LIST = Path(__file__).with_suffix(".yaml")
BATCH = 2
#: Parameters of more entries than this start with other values than constants in every network.
VECTOR = 1


@dataclass(frozen=True)
class Entry:
    """One network of the list: `name` is source/model, `input` the shape of one image [C, H, W], empty for tokens."""

    name: str
    family: str
    input: tuple[int, ...] = ()
    sets: tuple[str, ...] = ("all",)
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The library, and the part of it, that defines the network."""
        return self.name.partition("/")[0]

    @property
    def model(self) -> str:
        """The name by which that library knows it."""
        return self.name.partition("/")[2]


def entries() -> list[Entry]:
    """Read the list."""
    content = YAML(typ="safe").load(LIST.read_text())
    return [
        Entry(name, values["family"], tuple(values["input"]), tuple(values["sets"]), values.get("arguments", {}))
        for name, values in content.items()
    ]


def build(entry: Entry, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network in evaluation mode, its constants disturbed, and a batch of two random inputs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(seed)
    if entry.source == "transformers":
        model, example = CONFIGURED[entry.model]()
    else:
        model, example = SOURCES[entry.source](entry), (torch.randn(BATCH, *entry.input),)
    model.eval()
    disturb(model)
    return model, example


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    """Give the entries of each constant tensor values of their own: norms, layer scales, zero-initialised layers.

    With all biases 0 and all variances 1 a channel in the place of another would not be seen.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or tensor.numel() <= VECTOR or tensor.min() != tensor.max():
            continue
        value = tensor.flatten()[0].item()
        if name.endswith("running_var") or value:
            tensor.mul_(0.5 + torch.rand_like(tensor))
        elif tensor.dim() > 1:
            tensor.normal_(std=1 / math.sqrt(max(1, tensor[0].numel())))
        else:
            tensor.normal_(std=0.1)


class Flat(nn.Module):
    """A network that returns a dictionary, made to return its values in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the values."""
        return tuple(self.model(images).values())


def _classification(entry: Entry) -> nn.Module:
    given = {"transform_input": False} if entry.model in ("googlenet", "inception_v3") else {}
    if given:
        given |= {"init_weights": False}
    model: nn.Module = torchvision.models.get_model(entry.model, weights=None, **given, **entry.arguments)
    return model


def _segmentation(entry: Entry) -> nn.Module:
    return Flat(torchvision.models.get_model(entry.model, weights=None, weights_backbone=None, aux_loss=False))


def _backbone(entry: Entry) -> nn.Module:
    detector = torchvision.models.get_model(entry.model, weights=None, weights_backbone=None)
    return Flat(detector.backbone)


def _timm(entry: Entry) -> nn.Module:
    model: nn.Module = timm.create_model(entry.model, pretrained=False, **entry.arguments)
    if getattr(model, "num_classes", None) == 0:  # made for features: all channels would be the output
        model = timm.create_model(entry.model, pretrained=False, num_classes=1000, **entry.arguments)
    return model


SOURCES: dict[str, Callable[[Entry], nn.Module]] = {
    "torchvision": _classification,
    "torchvision-video": _classification,
    "torchvision-segmentation": _segmentation,
    "torchvision-backbone": _backbone,
    "timm": _timm,
}
