"""What is known about a network's channels: groups of them, what is kept whole, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.compress.pruning.graph.walk import Walk


@dataclass(frozen=True)
class Member:
    """The slices of one dimension of one tensor that a group owns.

    `positions` [width, k]: the indices along `dim` that each class owns. `consumes`: this is the input side of a layer,
    which sums over the group's channels.
    """

    tensor: str
    dim: int
    positions: NDArray[np.int64]
    consumes: bool


@dataclass(frozen=True)
class FeatureMap:
    """Where the output channels of a layer can be seen: after its norm, residual sum and activation.

    `positions` [width, k]: the indices along `dim` of the output of the captured graph's `node` that belong to a class.
    """

    node: str
    layer: str
    dim: int
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Channels that can be removed one by one. A class is one channel with everything that leaves with it.

    `name` is the layer that first produces the channels, `width` the number of classes.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    maps: tuple[FeatureMap, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose output channels these are, in the order of the forward pass."""
        return tuple(dict.fromkeys(layer_of(member.tensor) for member in self.members if not member.consumes))


@dataclass(frozen=True)
class Frozen:
    """A dimension of a tensor that cannot be pruned, or only in part, and why. `consumes` as in `Member`."""

    tensor: str
    dim: int
    reason: str
    consumes: bool


@dataclass(frozen=True)
class Axis:
    """The size of one dimension as widths decide it: `fixed` + the sum of `per_class[group]` * width of the group.

    A fraction stands where only some of a group's classes have positions in the dimension.
    """

    fixed: int
    per_class: Mapping[str, float]


@dataclass(frozen=True)
class Contraction:
    """Multiply-accumulates of one layer for one image: `constant` times the product of the sizes of `axes`."""

    layer: str
    constant: int
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class ChannelGraph:
    """All groups of a network, what cannot be pruned and why, and the sizes of its tensors.

    `aliases` has, for a tensor that several layers share, all its names; groups mention only the first. `walk` knows
    the labels of every value of the captured graph.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, tuple[str, ...]]
    contractions: tuple[Contraction, ...] = ()
    walk: Walk | None = field(default=None, repr=False, compare=False)


def layer_of(tensor: str) -> str:
    """Return the qualified name of the module that owns a tensor: 'layer1.0.conv1' for 'layer1.0.conv1.weight'."""
    return tensor.rpartition(".")[0] or tensor
