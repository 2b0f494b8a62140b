"""Pruning in depth: whole residual blocks leave an artifact's network, those that change their input least first."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compress.pruning.cost import count_cost
from pipeline.compress.pruning.depth import block_influence, prune_blocks, residual_blocks, without_blocks
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.selection import check_patterns
from pipeline.compress.pruning.surgery import PrunePlan
from pipeline.core.errors import InputError, StageError
from pipeline.network.stored import load_network, write_network
from pipeline.network.tracing import example_of, samples_of
from pipeline.stages.prune.record import costs, proof, removal_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from pipeline.compress.pruning.depth import ResidualBlock
    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.selection import CostName
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.network.phases import Record
    from pipeline.stages.prune.channels import PruneRequest


def prune_depth(job: PruneRequest, given: Artifact, context: Context) -> Record:
    """Remove the blocks of least influence, write the rest into the context's folder, and return what changed.

    Raises:
        InputError: there is no residual block, a pattern of `keep` names none, or the target cannot be reached.
        StageError: nothing would be removed, or the result is not the original with zeros in the branches.

    Cost: one pass over the images; for a target one count of operations for each block that leaves.
    """
    context.progress.update(0, 3, "finding residual blocks")
    model = load_network(given)
    captured = capture_graph(model, example_of(given, context))
    blocks = residual_blocks(captured)
    if not blocks:
        raise InputError("No residual block was found: a sum of two values, one computed from the other alone.")
    depth = Depth(captured, trace_channels(captured), blocks)
    context.progress.update(1, 3, "measuring the influence of blocks")
    movable = depth.movable(job.rules.keep)
    samples = samples_of(captured, context, job.images, job.batch)
    influence = block_influence(captured, movable, (inputs for inputs, _ in samples.training()))
    order = sorted(movable, key=lambda block: influence[block.name])
    number = depth.number_for(*job.aim.target, order) if job.aim.target else round((job.aim.ratio or 0) * len(blocks))
    chosen = [block.name for block in order[:number]]
    if not chosen:
        raise StageError(
            f"ratio {job.aim.ratio} of {len(blocks)} residual blocks, of which {len(movable)} may be removed, removes "
            "none. Raise ratio, or shorten keep."
        )
    context.progress.update(2, 3, "removing blocks")
    pruned = prune_blocks(captured, depth.graph, model, chosen)
    edit = {"kind": "prune blocks", "keep": {}, "blocks": chosen}
    write_network(context.folder, pruned.model, parent=given, edits=[edit])
    target = {"target": depth.reached(*job.aim.target, pruned.model)} if job.aim.target else {}
    return {
        "blocks": {"before": len(blocks), "after": len(blocks) - len(chosen)},
        "removed": chosen,
        "influence": influence,
        **costs(model, pruned.model, captured.example),
        **target,
        **proof([removal_record(pruned)]),
    }


@dataclass(frozen=True)
class Depth:
    """A captured network, its channels, and its residual blocks."""

    captured: CapturedGraph
    graph: ChannelGraph
    blocks: tuple[ResidualBlock, ...]

    def movable(self, keep: Sequence[str]) -> tuple[ResidualBlock, ...]:
        """Return the blocks that no pattern names, by their own name or that of a layer in them."""
        names = {block.name: {block.name, *block.layers} for block in self.blocks}
        check_patterns("keep", keep, set().union(*names.values()))
        return tuple(
            block for block in self.blocks if not any(fnmatch.filter(names[block.name], pattern) for pattern in keep)
        )

    def number_for(self, cost: CostName, fraction: float, order: Sequence[ResidualBlock]) -> int:
        """Return how many blocks, in this order, must be removed until no more than `fraction` of a cost is left."""
        whole = self._cost(cost, self.captured.module)
        for number in range(1, len(order) + 1):
            left = self._cost(cost, self._without(order[:number]))
            if left <= fraction * whole:
                return number
        raise InputError(
            f"target: {fraction:g} of the {cost} cannot be reached by removing blocks: without all {len(order)} that "
            f"may be removed, {self._cost(cost, self._without(order)) / whole:.3f} are left."
        )

    def reached(self, cost: CostName, fraction: float, model: nn.Module) -> Record:
        """Return the fraction of a cost that was asked for, and the one that a network without blocks has."""
        left = self._cost(cost, model) / self._cost(cost, self.captured.module)
        return {"cost": cost, "asked": fraction, "reached": left}

    def _without(self, blocks: Sequence[ResidualBlock]) -> nn.Module:
        if self.graph.walk is None:
            raise InputError("The graph has no walk: expected what trace() returned.")
        return rewrite_module(without_blocks(self.captured, blocks), self.graph.walk, PrunePlan({}))

    def _cost(self, name: CostName, model: nn.Module) -> int:
        if name == "size":
            stored = (*model.parameters(), *model.buffers())
            return sum(tensor.numel() * tensor.element_size() for tensor in stored)
        found = count_cost(model, self.captured.example)
        return found.macs if name == "macs" else found.parameters
