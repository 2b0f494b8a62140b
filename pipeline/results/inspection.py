"""What can be pruned in a network: its layers in forward order, its groups of channels, and what is kept whole and why.

Counts are exact integers. MACs are multiply-accumulates of one input (batch of one), as the channel graph knows them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.artifact import Frozen, TensorSpec


class Part(Frozen):
    """Some channels on one side of a layer: those of one group, or those that no pruning removes."""

    channels: int = Field(ge=1)
    group: str | None = Field(default=None, description="Name of the group; absent: these channels are kept whole.")
    reason: str = Field(default="", description="Why they are kept whole, as the channel graph says it.")


class Layer(Frozen):
    """One layer that multiplies with a stored matrix or kernel, or a product of computed tensors (attention)."""

    name: str = Field(description="Qualified name of the module, or of the tensor where no module owns it.")
    kind: str = Field(description="Class of the module with its kernel: 'Conv2d 3x3'.")
    parameters: int = Field(description="Parameters that are stored under this layer's name alone.")
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
        """Whether it has output channels and none of them can leave."""
        return bool(self.makes) and all(part.group is None for part in self.makes)


class ChannelGroup(Frozen):
    """Channels that can leave one by one, and all that leaves with each."""

    name: str = Field(description="The layer that first makes the channels.")
    width: int = Field(description="Number of channels.")
    makers: tuple[str, ...] = Field(description="Layers whose output channels these are, in forward order.")
    readers: tuple[str, ...] = Field(description="Layers that sum over these channels, in forward order.")
    along: tuple[str, ...] = Field(description="Other owners of numbers that leave with a channel: norms, scales.")
    parameters: int = Field(description="Parameters that would leave with all its channels.")
    macs: int = Field(description="MACs in which a channel of this group takes part.")
    saved_macs: int = Field(description="MACs saved when half of its channels (rounded down) leave, no others.")


class KeptWhole(Frozen):
    """Layers whose output channels stay, wholly or in part, for one reason."""

    reason: str = Field(description="The reason without the places that it names.")
    operator: str | None = Field(default=None, description="The operator that keeps them, where one does.")
    has_rule: bool = Field(default=True, description="Whether the channel graph knows what the operator does.")
    places: tuple[str, ...] = Field(default=(), description="Modules in which the operator stands.")
    layers: tuple[str, ...] = Field(description="The layers that stay, in forward order.")


class Inspection(Frozen):
    """All that `secateur inspect` tells about one network."""

    format: Literal[1] = 1
    name: str
    inputs: tuple[TensorSpec, ...]
    parameters: int
    macs: int
    prunable_macs: int = Field(description="MACs in which at least one channel that can leave takes part.")
    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    kept_whole: tuple[KeptWhole, ...]

    @property
    def layers_kept_whole(self) -> tuple[Layer, ...]:
        """Layers of which no output channel can leave."""
        return tuple(layer for layer in self.layers if layer.kept_whole)

    @property
    def operators_without_rule(self) -> tuple[str, ...]:
        """Operators that the channel graph does not know: each is worth a report to the project."""
        return tuple(dict.fromkeys(why.operator for why in self.kept_whole if why.operator and not why.has_rule))
