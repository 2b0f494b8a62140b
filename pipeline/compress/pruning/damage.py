"""Damage: how much of the task's loss a network's groups and blocks cost when they are narrowed or dropped, one by one.

Every number is the mean loss on a fixed choice of training samples, in nats for a classifier, with the batch-norm
statistics of each batch, less that of the whole network. Nothing is trained, and validation and test samples are not
looked at.

Source: one measured point for each group, as the sensitivity of Li et al. (ICLR 2017), with statistics renewed as in
EagleEye (Li et al., ECCV 2020).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.pruning.allocation.constraints import aligned_width
from pipeline.compress.pruning.allocation.widths import best_classes
from pipeline.compress.pruning.depth import without_blocks
from pipeline.compress.pruning.graph import layer_of
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.surgery import plan_for
from pipeline.compress.training.batchnorm import batch_statistics, recalibrate_batchnorm
from pipeline.compress.training.inference import inference_mode
from pipeline.compress.training.layout import for_kernels
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.pruning.allocation.widths import Kept
    from pipeline.compress.pruning.depth import ResidualBlock
    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.samples import Samples

#: The share of a group's channels that stays where its damage is measured.
_MEASURED_AT = 0.5
#: Samples in a batch whose own statistics say enough; with fewer the statistics of all batches are taken first.
_ENOUGH = 16


@dataclass(frozen=True)
class MeasuredDamage:
    """The whole network's loss, and what is lost by group at one kept width each, and by dropped block."""

    whole: float
    groups: Mapping[str, tuple[int, float]]
    blocks: Mapping[str, float]


@dataclass(frozen=True)
class DamageMeter:
    """Measures the loss of states of a captured network on the training samples of `samples`."""

    captured: CapturedGraph
    graph: ChannelGraph
    samples: Samples

    def loss(self, kept: Kept, blocks: Sequence[ResidualBlock] = ()) -> float:
        """Return the mean loss of the network that keeps these classes and has lost these blocks.

        Raises StageError when it is not a finite number.

        Cost: a rewritten network, and a forward pass over the samples; two where batches are small.
        """
        if self.graph.walk is None:
            raise InputError("The graph has no walk: expected what trace() returned.")
        captured = without_blocks(self.captured, blocks) if blocks else self.captured
        made = rewrite_module(captured, self.graph.walk, plan_for(self.graph, kept))
        found = self._mean_loss(made.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        if not isfinite(found):
            changed = ", ".join([*kept, *(block.name for block in blocks)]) or "nothing"
            raise StageError(
                f"The loss on training samples is {found} with {changed} narrowed or dropped; expected a finite number"
            )
        return found

    def measured(
        self,
        scores: Mapping[str, Tensor],
        grids: Mapping[str, Sequence[int]],
        blocks: Sequence[ResidualBlock],
        told: Callable[[int, int, str], None],
    ) -> MeasuredDamage:
        """Narrow each group alone to about half of its width, and drop each block alone.

        Args:
            scores: [width] by group; the highest stay.
            grids: the widths that each group may have, ascending; the last is its whole width.
            blocks: the residual blocks that may leave.
            told: is given the number done, the number of all, and what is measured next.
        """
        whole = self.loss({})
        narrow = {name: grid for name, grid in grids.items() if len(grid) > 1}
        count = len(narrow) + len(blocks)
        groups: dict[str, tuple[int, float]] = {}
        for name, grid in narrow.items():
            told(len(groups), count, f"damage of {name}")
            width = aligned_width(grid[:-1], _MEASURED_AT * grid[-1])
            groups[name] = width, max(0.0, self.loss(best_classes({name: scores[name]}, {name: width})) - whole)
        dropped: dict[str, float] = {}
        for block in blocks:
            told(len(groups) + len(dropped), count, f"damage of dropping {block.name}")
            dropped[block.name] = max(0.0, self.loss({}, (block,)) - whole)
        return MeasuredDamage(whole, groups, dropped)

    @cached_property
    def _batches(self) -> list[tuple[tuple[Tensor, ...], Any]]:
        """The samples, images with channels last; a last batch of one, which has no variance, is left out."""
        found = [
            (tuple(for_kernels(each, torch.channels_last) for each in inputs), targets)
            for inputs, targets in self.samples.for_loss()
        ]
        return found[:-1] if len(found) > 1 and len(found[-1][0][0]) == 1 else found

    def _mean_loss(self, model: nn.Module) -> float:
        enough = self.samples.batch >= _ENOUGH
        if not enough:
            recalibrate_batchnorm(model, (inputs for inputs, _ in self._batches))
        total, count = 0.0, 0
        with inference_mode(model), batch_statistics(model) if enough else nullcontext():
            for inputs, targets in self._batches:
                size = len(inputs[0])
                total += size * float(self.samples.loss(model(*inputs), targets))
                count += size
        return total / max(count, 1)


def groups_inside(graph: ChannelGraph, blocks: Sequence[ResidualBlock]) -> dict[str, frozenset[str]]:
    """Return by block the groups that lie in it alone, and so leave with it."""
    layers = {group.name: {layer_of(member.tensor) for member in group.members} for group in graph.groups}
    return {block.name: frozenset(name for name, own in layers.items() if own <= set(block.layers)) for block in blocks}
