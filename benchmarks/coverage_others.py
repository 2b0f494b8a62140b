"""Networks of packages that the engine was not made with, built as their users build them, at small input sizes.

The list is coverage_others.yaml: what is imported and called, with what, and the shapes of the inputs without the
batch. Weights are random. A package that cannot be imported is a record of its networks and not the end.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coverage_libraries  # noqa: F401 (torchvision's schemas, before anything imports it)
import torch
from coverage_models import BATCH, disturb
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

LIST = Path(__file__).with_suffix(".yaml")
#: Time steps of diffusion are below this.
STEPS = 100


@dataclass(frozen=True)
class Other:
    """One network: `name` is package/network; `made` is module:name of what is called with `arguments`."""

    name: str
    family: str
    made: str
    inputs: list[Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    tuples: list[str] = field(default_factory=list)
    sets: tuple[str, ...] = ("others",)

    @property
    def input(self) -> list[Any]:
        """What a record says of the inputs."""
        return self.inputs


def entries() -> list[Other]:
    """Read the list."""
    content = YAML(typ="safe").load(LIST.read_text())
    return [Other(name, **values) for name, values in content.items()]


def load(networks: Sequence[Other]) -> None:
    """Import the packages; one that cannot be imported fails again, with its reason, where its network is built."""
    for module in dict.fromkeys(entry.made.partition(":")[0] for entry in networks):
        with contextlib.suppress(Exception):
            import_module(module)


def build(entry: Other, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network in evaluation mode, its constants disturbed, and a batch of random inputs."""
    torch.manual_seed(seed)
    module, _, name = entry.made.partition(":")
    made: Any = import_module(module)
    for part in name.split("."):
        made = getattr(made, part)
    given = {key: tuple(value) if key in entry.tuples else value for key, value in entry.arguments.items()}
    model = made(**given)
    if entry.made == "ultralytics:YOLO":  # a program around the network
        model = model.model
    model.float().eval()
    disturb(model)
    return model, example(entry, BATCH)


def example(entry: Other, batch: int) -> tuple[Tensor, ...]:
    """Return random inputs."""
    return tuple(
        torch.randint(0, STEPS, (batch,)) if shape == "t" else torch.randn(batch, *shape) for shape in entry.inputs
    )
