"""Feature maps by channel: what all criteria that look at activations read, one batch at a time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.pruning.graph.capture import record_outputs, record_values
from pipeline.compress.pruning.importance.request import input_tuple
from pipeline.compress.pruning.importance.samples import sample_axes
from pipeline.compress.pruning.importance.slices import require_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph, FeatureMap, Group
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches, Inputs
    from pipeline.compress.pruning.importance.samples import SampleAxis


class FeatureMaps:
    """The feature maps of a network's groups. A map in which several layers of a group can be seen counts once."""

    def __init__(self, captured: CapturedGraph, graph: ChannelGraph, criterion: str) -> None:
        """Take the network and its groups. Raises InputError naming groups without a map, for `criterion`."""
        self.captured = captured
        self.by_group = {group.name: _distinct(group) for group in graph.groups if group.maps}
        require_groups(graph, self.by_group, criterion, "feature maps of the channels")
        self._channels = {each.node: each.dim for maps in self.by_group.values() for each in maps}
        self._axes: dict[str, SampleAxis] = {}

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes whose values are maps."""
        return tuple(self._channels)

    def record(self, inputs: Inputs) -> tuple[dict[str, Tensor], Any]:
        """Run a batch [N, ...] and return the values of all nodes with a map, and what forward returns."""
        given = input_tuple(inputs)
        if not self._axes:
            self._axes = sample_axes(self.captured, self._channels, given)
        return record_outputs(self.captured, self.nodes, given)

    def arranged(self, value: Tensor, each: FeatureMap, samples: int) -> Tensor:
        """Return a node's value, or its gradient, as [samples, width, k, rows, pixels or tokens ...].

        k channels belong to each class; a sample has one row, save where windows or tokens are folded into the batch.
        A value that does not depend on the batch is the same for all samples.
        """
        axis = self._axes[each.node]
        by_channel = axis.first(value, samples).movedim(axis.moved(each.dim), 1)
        return by_channel[:, torch.from_numpy(each.positions).to(value.device)]

    def of_samples(self, node: str) -> bool:
        """Say whether a node has a map for each sample, once a batch has been recorded."""
        return self._axes[node].axis is not None

    def channel_elements(self) -> dict[str, float]:
        """Return how many numbers one channel of each group takes in all its feature maps, for each sample."""
        example = self.captured.example
        with torch.no_grad():
            values = record_values(self.captured, self.nodes, example)
        return {
            name: sum(values[m.node].numel() / values[m.node].shape[m.dim] * m.positions.shape[1] for m in maps)
            / len(example[0])
            for name, maps in self.by_group.items()
        }

    def stream(self, batches: Batches) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield for each batch and group the group's maps, `arranged`, without gradients."""
        for inputs, _ in batches:
            with torch.no_grad():
                values, _ = self.record(inputs)
            for name, maps in self.by_group.items():
                yield name, [self.arranged(values[each.node], each, len(input_tuple(inputs)[0])) for each in maps]

    def averaged(self, batches: Batches, per_sample: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the mean over samples and a group's maps, float64 [width] by group.

        `per_sample`: from one map, `arranged`, to a number for each sample and class, [samples, width].
        """
        totals: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()
        for name, maps in self.stream(batches):
            means = torch.stack([per_sample(each).double().sum(0).cpu() for each in maps]).mean(0)
            totals[name] = totals.get(name, 0) + means
            counts[name] += len(maps[0])
        return {name: total / counts[name] for name, total in totals.items()}


def _distinct(group: Group) -> tuple[FeatureMap, ...]:
    """Return the maps of a group, those with equal positions in the same value once."""
    return tuple({(each.node, each.dim, each.positions.tobytes()): each for each in group.maps}.values())
