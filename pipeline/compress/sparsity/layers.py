"""The weights of a network that can become zero one by one: those that its layers multiply by."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.problems import first_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Parameters of recurrent layers and attention that are matrices, by how their names begin.
_MATRICES = ("weight_ih", "weight_hh", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class SparseLayer:
    """One parameter whose weights can become zero.

    Attributes:
        name: of the parameter, such as `conv1.weight`.
        layer: the qualified name of the layer that has it.
        weight: the parameter itself.
        outputs: its dimension of output channels.
        inputs: its dimension of input channels, those of one group.
    """

    name: str
    layer: str
    weight: nn.Parameter
    outputs: int = 0
    inputs: int = 1


def sparse_layers(model: nn.Module, keep: Sequence[str] = ()) -> tuple[SparseLayer, ...]:
    """Return the weights of convolutions, linear and recurrent layers and attention, each once, in the network's order.

    Left out are layers that match a pattern of `keep` (by the name of the layer or of the parameter), embeddings,
    biases and norms, and weights that the network computes from others.

    Raises:
        InputError: a pattern matches no such layer, or nothing is left.
    """
    found = tuple(_found(model))
    names = [{each.layer, each.name} for each in found]
    for pattern in keep:
        if not any(fnmatch.filter(own, pattern) for own in names):
            raise InputError(
                f"keep: {pattern} matches no layer with weights; there are "
                f"{first_names([each.layer or each.name for each in found])}"
            )
    left = tuple(
        each
        for each, own in zip(found, names, strict=True)
        if not any(fnmatch.filter(own, pattern) for pattern in keep)
    )
    if not left:
        raise InputError(
            "no weight can be set to zero: "
            + ("keep names every layer" if found else "the network has no convolution, linear or recurrent layer")
        )
    return left


def _found(model: nn.Module) -> Iterator[SparseLayer]:
    seen: set[int] = set()
    for layer, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not _is_weight(module, name):
                continue
            seen.add(id(parameter))
            turned = isinstance(module, nn.modules.conv._ConvTransposeNd)  # noqa: SLF001 - the only common class
            yield SparseLayer(f"{layer}.{name}" if layer else name, layer, parameter, int(turned), int(not turned))


def _is_weight(module: nn.Module, name: str) -> bool:
    """Say whether a parameter of a layer is what it multiplies by."""
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):  # noqa: SLF001 - the only common class
        return name == "weight"
    recurrent = isinstance(module, (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention))
    return recurrent and name.startswith(_MATRICES)
