"""Real files of a network at other widths and without some of its blocks, in the precision that ships.

They are made to be timed, not to be used: which channels stay does not matter, and nothing is certified.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.certificate import DifferentError
from pipeline.compress.pruning.depth import residual_blocks, without_blocks
from pipeline.compress.pruning.prune import prune_in_place
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.state import NetworkState
from pipeline.compress.pruning.surgery import plan_for
from pipeline.compress.quantization.canonical import canonical_form
from pipeline.compress.training.inference import forward_outputs
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto
    from torch import nn

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.quantization.calibration import Range
    from pipeline.pricing.form import FileForm, ShippedPrecision

#: Relative to the largest output: a network pruned in place computes what its graph does.
_TOLERANCE = 1e-3
#: Float exports that a maker keeps.
_MOST_EXPORTS = 8


def network_at(
    captured: CapturedGraph, graph: ChannelGraph, model: nn.Module, state: NetworkState, *, own: bool = False
) -> nn.Module:
    """Return a network in a state, in evaluation mode: the first channels of each group stay. Nothing is certified.

    Args:
        captured: the network's graph.
        graph: its channels, as `trace_channels` found them.
        model: the network; it is not changed.
        state: the widths, and the blocks that are gone.
        own: keep the network's own forward, as `keeps_own_forward` allows; without blocks it is always written anew.

    Raises:
        InputError: a group or a block is not known, or nothing of a group would stay.
    """
    if graph.walk is None:
        raise InputError("The graph has no walk: expected what trace() returned.")
    plan = plan_for(graph, {name: range(width) for name, width in state.widths.items()})
    if state.dropped:
        blocks = residual_blocks(captured)
        if unknown := state.dropped - {block.name for block in blocks}:
            raise InputError(f"Blocks {', '.join(sorted(unknown))} are not in the network.")
        captured = without_blocks(captured, [block for block in blocks if block.name in state.dropped])
    elif own:
        return prune_in_place(captured, graph.walk, model, plan).eval()
    return rewrite_module(captured, graph.walk, plan).eval()


@torch.no_grad()
def keeps_own_forward(captured: CapturedGraph, graph: ChannelGraph, model: nn.Module) -> bool:
    """Say whether the network's own forward takes other widths: with half of every group it computes the right thing.

    Cost: two copies of the network and three forward passes of the example.
    """
    half = NetworkState({group.name: (group.width + 1) // 2 for group in graph.groups})
    wanted = forward_outputs(network_at(captured, graph, model, half), captured.example)
    try:
        found = forward_outputs(network_at(captured, graph, model, half, own=True), captured.example)
    except DifferentError:
        return False
    except Exception:  # noqa: BLE001 - sizes that do not fit, as any operator tells it
        return False
    return len(wanted) == len(found) and all(map(_near, wanted, found))


def _near(wanted: torch.Tensor, found: torch.Tensor) -> bool:
    scale = float(wanted.float().abs().max()) if wanted.numel() else 0.0
    return wanted.shape == found.shape and torch.allclose(
        wanted.float(), found.float(), rtol=0, atol=_TOLERANCE * scale, equal_nan=True
    )


class FileMaker:
    """Makes real files of one network: `maker(state)`. Its last float exports serve files in other precisions too."""

    def __init__(
        self,
        captured: CapturedGraph,
        graph: ChannelGraph,
        model: nn.Module,
        form: FileForm,
    ) -> None:
        """Take the network's graph, its channels, the network, which is not changed, and what its files are to be."""
        self._network = captured, graph, model
        self._form = form
        self._own = keeps_own_forward(captured, graph, model)
        self._exports: dict[tuple[frozenset[tuple[str, int]], frozenset[str]], ModelProto] = {}
        self._whole_ranges: dict[str, Range] | None = None

    def in_precision(self, precision: ShippedPrecision) -> FileMaker:
        """Return a maker of files in another precision that shares the float exports with this one."""
        other = copy(self)
        other._form = self._form.in_precision(precision)  # noqa: SLF001 - its own class
        return other

    def at_widths(self, widths: Mapping[str, int]) -> ModelProto:
        """Return the file with these kept widths by group and all blocks, as `infer_template` asks for it."""
        return self(NetworkState(dict(widths)))

    def __call__(self, state: NetworkState) -> ModelProto:
        """Return the file of a state, in the precision that was asked for.

        Raises:
            InputError: the state is not one of this network, the network cannot be exported, or nothing of it can be
                computed in the precision.
            StageError: it cannot be quantized.

        Cost: an export of 2 to 5 seconds, and a quantization.
        """
        file = self._exported(state)
        return self._quantized(file, state) if self._form.precision == "int8" else self._form.converted(file)

    def _exported(self, state: NetworkState) -> ModelProto:
        captured, graph, model = self._network
        narrower = {(g.name, w) for g in graph.groups if (w := state.widths.get(g.name, g.width)) != g.width}
        key = frozenset(narrower), state.dropped
        if key not in self._exports:
            while len(self._exports) >= _MOST_EXPORTS:
                del self._exports[next(iter(self._exports))]
            network = network_at(captured, graph, model, state, own=self._own)
            batch = None if captured.dynamic else len(captured.example[0])
            self._exports[key] = self._form.exported(network, batch)
        return self._exports[key]

    def _quantized(self, file: ModelProto, state: NetworkState) -> ModelProto:
        """Quantize statically; where all blocks are there, with the ranges of the whole file, whose names it has."""
        if state.dropped:
            return self._form.quantized(file)
        if self._whole_ranges is None:
            self._whole_ranges = self._form.ranges(canonical_form(self._exported(NetworkState())))
        return self._form.quantized(file, self._whole_ranges)
