"""Real files of a network at other widths and without some of its blocks, in the precision that ships.

They are made to be timed, not to be used: which channels stay does not matter, nothing is certified, and values are
those of a sound network (statistics of batch norms on a few images, no two tensors alike) whatever the weights are, so
that a network without training quantizes as it will once it is trained.
"""

from __future__ import annotations

import tempfile
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pipeline.compress.pruning.certificate import DifferentError
from pipeline.compress.pruning.depth import residual_blocks, without_blocks
from pipeline.compress.pruning.prune import prune_in_place
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.state import NetworkState
from pipeline.compress.pruning.surgery import plan_for
from pipeline.compress.quantization.canonical import canonical_form
from pipeline.compress.quantization.engines.onnxruntime import quantize_with_ranges
from pipeline.compress.quantization.holding import hold_in_float
from pipeline.compress.quantization.names import OtherPrecision
from pipeline.compress.quantization.placement import nodes_like
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.compress.training.inference import forward_outputs
from pipeline.core.artifact import at_batch
from pipeline.core.cpu import cpu_flags
from pipeline.core.errors import InputError
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.export.simplify import with_folded_norms
from pipeline.onnx_graph.file import read_onnx
from pipeline.precision.config import QuantizationConfig
from pipeline.precision.request import request_of, training_images
from pipeline.precision.targets import resolved_scheme
from pipeline.precision.variant import other_precision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.exported import Example
    from pipeline.compress.quantization.calibration import Range
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context

ShippedPrecision = Literal["fp32", "int8", OtherPrecision]
#: Training images that statistics and ranges are taken from.
IMAGES = 16
#: Relative to the largest output: a network pruned in place computes what its graph does.
_TOLERANCE = 1e-3
#: What a tensor of equal values gets, such as biases of zero, which an exporter would take out or store once.
_LIFT = 0.02
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


@torch.no_grad()
def make_sound(network: nn.Module, examples: Example, batch: int) -> None:
    """Give a network values that quantize well, in place: its batch norms take their statistics from these examples.

    Parameters that hold one number everywhere get others, each its own.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[:1].squeeze()).all()):
            parameter.add_(_LIFT * (1 + torch.rand(parameter.shape, generator=generator)))
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    for start in range(0, len(examples[0]) - batch + 1, batch) if norms else ():
        network(*(example[start : start + batch] for example in examples))
    network.eval()


class FileMaker:
    """Makes real files of one network: `maker(state)`. Its last float exports serve files in other precisions too."""

    def __init__(
        self,
        captured: CapturedGraph,
        graph: ChannelGraph,
        model: nn.Module,
        given: Artifact,
        context: Context,
        *,
        precision: ShippedPrecision = "fp32",
        quantization: QuantizationConfig | None = None,
    ) -> None:
        """Take the network, and what its files are to be.

        Args:
            captured: the network's graph.
            graph: its channels.
            model: the network; it is not changed.
            given: its artifact, for the names and sizes of inputs and outputs.
            context: of the run, for the target's batch and a few training images.
            precision: of the files: float, static int8 by onnxruntime's engine, or another that `quantize` makes.
            quantization: how int8 files are quantized, but for the number of images; None: as by default.
        """
        self._network = captured, graph, model
        self._inputs = at_batch(given.inputs, context.target.batch)
        self._outputs = [output.name for output in given.outputs]
        self.precision, self._quantization = precision, quantization or QuantizationConfig()
        self._images = training_images(context, min(IMAGES, context.task().count("train")))
        self._own = keeps_own_forward(captured, graph, model)
        self._exports: dict[tuple[frozenset[tuple[str, int]], frozenset[str]], ModelProto] = {}
        self._whole_ranges: dict[str, Range] | None = None

    def in_precision(self, precision: ShippedPrecision) -> FileMaker:
        """Return a maker of files in another precision that shares the float exports with this one."""
        other = copy(self)
        other.precision = precision
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
        if self.precision == "fp32":
            return file
        if self.precision == "int8":
            return self._quantized(file, state)
        reduced = resolved_scheme(self._quantization.scheme, cpu_flags()) == "u8s8-reduced"
        return other_precision(file, self.precision, reduced=reduced, keep=self._kept(file))

    def _exported(self, state: NetworkState) -> ModelProto:
        captured, graph, model = self._network
        narrower = {(g.name, w) for g in graph.groups if (w := state.widths.get(g.name, g.width)) != g.width}
        key = frozenset(narrower), state.dropped
        if key not in self._exports:
            while len(self._exports) >= _MOST_EXPORTS:
                del self._exports[next(iter(self._exports))]
            network = network_at(captured, graph, model, state, own=self._own)
            examples = tuple(torch.from_numpy(self._images[spec.name]) for spec in self._inputs)
            make_sound(network, examples, len(examples[0]) if captured.dynamic else len(captured.example[0]))
            with tempfile.TemporaryDirectory() as folder:
                export_onnx(network, Path(folder), self._inputs, self._outputs)
                self._exports[key] = with_folded_norms(read_onnx(Path(folder) / FILE_NAME))
        return self._exports[key]

    def _quantized(self, file: ModelProto, state: NetworkState) -> ModelProto:
        """Quantize statically; where all blocks are there, with the ranges of the whole file, whose names it has."""
        config = self._quantization
        request = request_of(config, resolved_scheme(config.scheme, cpu_flags()))
        given = canonical_form(file)
        request = replace(request, keep=self._kept(given))
        if state.dropped:
            ranges = self._ranges(given)
        else:
            self._whole_ranges = self._whole_ranges or self._ranges(canonical_form(self._exported(NetworkState())))
            ranges = self._whole_ranges
        quantized = quantize_with_ranges(given, ranges, request)
        kept = nodes_like(given, request.keep) | quantized.reasons.keys()
        return hold_in_float(quantized.model, kept) if kept else quantized.model

    def _ranges(self, given: ModelProto) -> dict[str, Range]:
        config = self._quantization
        return activation_ranges(
            given,
            self._images,
            calibration=config.calibration,
            percentile=config.percentile,
            keep=self._kept(given),
        )

    def _kept(self, file: ModelProto) -> tuple[str, ...]:
        """Return the patterns of nodes in float that still match one; a block may have taken some away."""
        return tuple(each for each in self._quantization.keep if nodes_like(file, (each,)))
