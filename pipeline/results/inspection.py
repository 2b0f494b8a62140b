"""What can be pruned in a network: its layers in forward order, its groups of channels, what cannot be and why.

Counts are exact integers. MACs are multiply-accumulates of one input (batch of one), as the channel graph knows them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel, TensorSpec


class Part(FrozenModel):
    """Some channels on one side of a layer: those of one group, or those that no pruning removes."""

    channels: int = Field(ge=1)
    group: str | None = Field(default=None, description="Name of the group; absent: these channels cannot be pruned.")
    reason: str = Field(default="", description="Why they cannot be pruned, as the channel graph says.")


class Layer(FrozenModel):
    """One layer that multiplies with a stored matrix or kernel, or a product of computed tensors (attention)."""

    name: str = Field(description="Qualified name of the module, or of the tensor if no module owns it.")
    kind: str = Field(description="Class of the module with its kernel: 'Conv2d 3x3'.")
    parameters: int = Field(description="Parameters that are stored only under this layer's name.")
    macs: int
    reads: tuple[Part, ...] = Field(description="Input channels.")
    makes: tuple[Part, ...] = Field(description="Output channels.")

    @property
    def width_in(self) -> int:
        """Input channels; 0 where the layer sums over no stored dimension."""
        return sum(part.channels for part in self.reads)

    @property
    def width_out(self) -> int:
        """Output channels; 0 where they belong to no stored tensor."""
        return sum(part.channels for part in self.makes)

    @property
    def kept_whole(self) -> bool:
        """Whether it has output channels and none of them can be removed."""
        return bool(self.makes) and all(part.group is None for part in self.makes)


class ChannelGroup(FrozenModel):
    """Channels that can be removed one by one, and all that is removed with each."""

    name: str = Field(description="The layer that first makes the channels.")
    width: int = Field(description="Number of channels.")
    makers: tuple[str, ...] = Field(description="Layers whose output channels these are, in forward order.")
    readers: tuple[str, ...] = Field(description="Layers that sum over these channels, in forward order.")
    along: tuple[str, ...] = Field(description="Others whose numbers are removed with a channel: norms, scales.")
    parameters: int = Field(description="Parameters that would be removed with all its channels.")
    macs: int = Field(description="MACs that involve a channel of this group.")
    saved_macs: int = Field(description="MACs saved if half of its channels (rounded down) are removed, and no others.")


class KeptWhole(FrozenModel):
    """Layers whose output channels stay, wholly or in part, for one reason."""

    reason: str = Field(description="The reason without the places that it names.")
    operator: str | None = Field(default=None, description="The operator that prevents pruning, if one does.")
    has_rule: bool = Field(default=True, description="Whether the channel graph knows what the operator does.")
    places: tuple[str, ...] = Field(default=(), description="Modules that contain the operator.")
    layers: tuple[str, ...] = Field(description="The layers that cannot be pruned, in forward order.")


class Inspection(FrozenModel):
    """All that `secateur inspect` tells about one network."""

    format: Literal[1] = 1
    name: str
    inputs: tuple[TensorSpec, ...]
    parameters: int
    macs: int
    prunable_macs: int = Field(description="MACs that involve at least one removable channel.")
    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    kept_whole: tuple[KeptWhole, ...]

    @property
    def layers_kept_whole(self) -> tuple[Layer, ...]:
        """Layers of which no output channel can be removed."""
        return tuple(layer for layer in self.layers if layer.kept_whole)

    @property
    def operators_without_rule(self) -> tuple[str, ...]:
        """Operators that the channel graph does not know: each is worth a report to the project."""
        return tuple(dict.fromkeys(why.operator for why in self.kept_whole if why.operator and not why.has_rule))
