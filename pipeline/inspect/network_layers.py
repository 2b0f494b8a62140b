"""The layers of an inspection: forward order, and which groups stand on the input and the output side of each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from pipeline.compress.pruning.cost import macs_model
from pipeline.compress.pruning.graph import layer_of
from pipeline.results.inspection import Layer, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compress.pruning.graph import ChannelGraph, Contraction

    Slot = tuple[str, int]

_SINGLE = "a single channel is never removed"
#: Stands for a sum of products in the forward of the network itself.
NETWORK = "(network)"
_UNTOLD = "none of its channels can be removed alone"


def forward_order(graph: ChannelGraph, owners: Mapping[str, str]) -> tuple[str, ...]:
    """Return the layers worth drawing in forward order: those with a matrix or kernel, and other sums of products.

    `owners` has the parameters in the order of their first use. A sum of products without a stored tensor, such as that
    of attention, comes before the next one that has some.
    """
    products = list(dict.fromkeys(contraction.layer for contraction in graph.contractions))
    matrices = (tensor for tensor in owners if sum(size > 1 for size in graph.shapes.get(tensor, ())) > 1)
    order = list(dict.fromkeys(owners[tensor] for tensor in matrices))
    order = list(dict.fromkeys(layer for layer in owners.values() if layer in {*order, *products}))
    place = len(order)
    for layer in reversed(products):
        if layer not in order:
            order.insert(place, layer)
        place = order.index(layer)
    return tuple(order)


def layers_of(tensor: str, graph: ChannelGraph, owners: Mapping[str, str]) -> tuple[str, ...]:
    """Return the layer that owns a tensor and those that share it."""
    shared = (layer_of(alias) for alias in graph.aliases.get(tensor, ()) if alias != tensor)
    return tuple(dict.fromkeys((owners.get(tensor, layer_of(tensor)), *shared)))


@dataclass(frozen=True)
class Sides:
    """Looks up what stands on both sides of a layer; fields as those of `Structure`, owners of parameters alone."""

    graph: ChannelGraph
    owners: Mapping[str, str]
    kinds: Mapping[str, str]
    convolution_groups: Mapping[str, int]

    def layer(self, name: str) -> Layer:
        """Describe one layer."""
        return Layer(
            name=name or NETWORK,
            kind=self.kinds.get(name, "parameter"),
            parameters=sum(
                prod(self.graph.shapes[tensor])
                for tensor, owner in self.owners.items()
                if owner == name and tensor in self.graph.shapes
            ),
            macs=self._macs.get(name, 0),
            reads=self._reads(name),
            makes=self._makes(name),
        )

    @cached_property
    def _macs(self) -> Mapping[str, int]:
        alone: dict[str, list[Contraction]] = defaultdict(list)
        for contraction in self.graph.contractions:
            alone[contraction.layer].append(contraction)
        return {
            layer: round(macs_model(replace(self.graph, contractions=tuple(products))).cost({}))
            for layer, products in alone.items()
        }

    @cached_property
    def _members(self) -> Mapping[Slot, list[tuple[int, str, int]]]:
        """First position, group and number of positions of all that is free in a dimension of a tensor."""
        found: dict[Slot, list[tuple[int, str, int]]] = defaultdict(list)
        for group in self.graph.groups:
            for member in group.members:
                start = int(member.positions.min())
                found[member.tensor, member.dim].append((start, group.name, member.positions.size))
        return {slot: sorted(free) for slot, free in found.items()}

    @cached_property
    def _reasons(self) -> Mapping[Slot, str]:
        return {(frozen.tensor, frozen.dim): frozen.reason for frozen in self.graph.frozen}

    @cached_property
    def _consumed(self) -> Mapping[Slot, bool]:
        """Whether a dimension with something free or frozen is the input side of its layer."""
        members = {(m.tensor, m.dim): m.consumes for group in self.graph.groups for m in group.members}
        return {**{(frozen.tensor, frozen.dim): frozen.consumes for frozen in self.graph.frozen}, **members}

    @cached_property
    def _tensors(self) -> Mapping[str, list[str]]:
        """The tensors of each layer that are no vectors, a shared one under all its layers."""
        found: dict[str, list[str]] = defaultdict(list)
        for tensor in self.owners:
            if len(self.graph.shapes.get(tensor, ())) > 1:
                for layer in layers_of(tensor, self.graph, self.owners):
                    found[layer].append(tensor)
        return found

    def _slots(self, layer: str, *, consumed: bool) -> list[Slot]:
        """Return the dimensions on one side of a layer, those of the first tensor that has some; free ones first.

        The table that a layer only looks up, but another one multiplies with, has an output side alone.
        """
        for tensor in self._tensors.get(layer, ()):
            table = tensor in self.graph.aliases and layer not in self._macs
            slots = [(tensor, dim) for dim in range(len(self.graph.shapes[tensor])) if (tensor, dim) in self._consumed]
            if chosen := [slot for slot in slots if (self._consumed[slot] and not table) is consumed]:
                return sorted(chosen, key=lambda slot: slot not in self._members)
        return []

    def _reads(self, layer: str) -> tuple[Part, ...]:
        """Return the input side; empty for a table (embedding, positions)."""
        if slots := self._slots(layer, consumed=True):
            return self._parts(slots[0], self.convolution_groups.get(layer, 1))
        return self._through(layer) if layer in self.convolution_groups else self._single(layer, 1)

    def _makes(self, layer: str) -> tuple[Part, ...]:
        """Return the output side; of a table the channels of an entry, which are last.

        Empty for a product of computed tensors, although it may add a table of its own (relative positions).
        """
        slots = self._slots(layer, consumed=False)
        # These are all dimensions of their tensor, so nothing sums over one of them.
        if layer in self._macs and slots and len(slots) == len(self.graph.shapes[slots[0][0]]):
            return ()
        if not slots:
            return self._single(layer, 0)
        free = slots[0] in self._members or layer in self._macs
        return self._parts(slots[0] if free else slots[-1], 1)

    def _single(self, layer: str, dim: int) -> tuple[Part, ...]:
        """Return the side of a layer that has one channel, which no group or reason mentions."""
        if layer not in self._macs:
            return ()
        shapes = [self.graph.shapes[tensor] for tensor in self._tensors.get(layer, ())]
        return (Part(channels=1, reason=_SINGLE),) if any(shape[dim] == 1 for shape in shapes) else ()

    def _parts(self, slot: Slot, times: int) -> tuple[Part, ...]:
        """Divide a dimension among its groups and what is kept whole; `times` for a kernel that groups share."""
        tensor, dim = slot
        free = [(name, count * times) for _, name, count in self._members.get(slot, ())]
        rest = self.graph.shapes[tensor][dim] * times - sum(count for _, count in free)
        kept = (Part(channels=rest, reason=self._reasons.get(slot) or _UNTOLD),) if rest else ()
        return (*(Part(channels=count, group=name) for name, count in free), *kept)

    def _through(self, layer: str) -> tuple[Part, ...]:
        """Return the input side of a convolution whose inputs leave with its outputs, such as a depthwise one."""
        outer, inner = self.graph.shapes[self._tensors[layer][0]][:2]
        scale = inner * self.convolution_groups[layer]
        return tuple(
            part.model_copy(update={"channels": max(1, part.channels * scale // outer)}) for part in self._makes(layer)
        )
