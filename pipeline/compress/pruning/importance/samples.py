"""Where the samples of a batch are in a value of the graph.

Most values have them along dimension 0. Attention puts tokens first, windows fold many rows of a sample into the
batch, and `flatten(0, 1)` after a transposition interleaves them. A criterion that squares or ranks per sample must
know, so it is found out: a batch of equal samples gives equal rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from pipeline.compress.pruning.graph.capture import record_values
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.pruning.graph.capture import CapturedGraph

#: Equal samples may differ by rounding, as rows of a batch take different paths through a kernel.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SampleAxis:
    """The dimension that holds the samples; a sample has one or more rows there, in one block or interleaved.

    `axis` is None for values that do not depend on the batch, such as what a small network makes of positions.
    """

    axis: int | None
    interleaved: bool = False

    def first(self, value: Tensor, samples: int) -> Tensor:
        """Return the value as [samples, rows, all other dimensions in their order]."""
        if self.axis is None:
            return value.expand(samples, 1, *value.shape)
        rows = value.movedim(self.axis, 0)
        if self.interleaved:
            return rows.reshape(-1, samples, *rows.shape[1:]).movedim(1, 0)
        return rows.reshape(samples, -1, *rows.shape[1:])

    def moved(self, dim: int) -> int:
        """Return where another dimension of the value is in the result of `first`."""
        return dim + 1 if self.axis is not None and dim > self.axis else dim + 2


def sample_axes(
    captured: CapturedGraph, channels: Mapping[str, int], inputs: tuple[Tensor, ...]
) -> dict[str, SampleAxis]:
    """Return where the samples are in the values of nodes.

    Args:
        captured: the network.
        channels: by the nodes' names, the dimension of their channels.
        inputs: all inputs of a batch, each [N, ...]; its first sample is repeated to see which rows agree.

    Raises:
        StageError: the samples are in an order that is neither blocks nor interleaved; or the network fixes its batch
            and they are not in the first dimension.
    """
    copies = 2 if captured.dynamic else len(captured.example[0])
    with torch.no_grad():
        alike = tuple(each[:1].expand(copies, *each.shape[1:]).clone() for each in inputs)
        values = record_values(captured, channels.keys(), alike)
    by_name = {node.name: node for node in captured.module.graph.nodes}
    found = {}
    for name, channel in channels.items():
        sizes = enumerate(by_name[name].meta["val"].shape)
        axes = [axis for axis, size in sizes if not captured.dynamic or not is_concrete_int(size)]
        axis = next((axis for axis in axes if axis != channel), None)
        found[name] = SampleAxis(None) if axis is None else _ordered(name, values[name], axis, copies)
    return found


def _ordered(name: str, value: Tensor, axis: int, copies: int) -> SampleAxis:
    """Return in which order the rows of equal samples stand."""
    if value.shape[axis] % copies == 0:
        for candidate in (SampleAxis(axis), SampleAxis(axis, interleaved=True)):
            rows = candidate.first(value, copies)
            if bool((rows - rows[:1]).abs().max() <= _TOLERANCE * rows.abs().max()):
                return candidate
    raise StageError(
        f"The samples of a batch cannot be separated along dimension {axis} of {name} {list(value.shape)}, the feature "
        "map of a group. Expected equally many rows for each sample. Name the group's layers in `keep`, or choose a "
        "criterion that uses only weights."
    )
