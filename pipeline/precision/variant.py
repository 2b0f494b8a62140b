"""An int8 graph from an engine, a request, and the steps that bring accuracy back: one way for every candidate."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.compress.quantization.alike import round_alike
from pipeline.compress.quantization.canonical import canonical_form
from pipeline.compress.quantization.engines.registry import open_engine
from pipeline.compress.quantization.holding import hold_in_float
from pipeline.compress.quantization.placement import matching_nodes, nodes_like
from pipeline.compress.quantization.precisions.block_weights import block_weights
from pipeline.compress.quantization.precisions.dynamic import dynamic_int8
from pipeline.compress.quantization.precisions.half import half_graph, half_weights
from pipeline.compress.quantization.recovery.bias_correction import correct_biases
from pipeline.compress.quantization.recovery.equalization import equalize_channels
from pipeline.compress.quantization.recovery.rounding import round_adaptively
from pipeline.core.feeds import take_samples
from pipeline.core.stage import SilentProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizedGraph, QuantizeRequest
    from pipeline.compress.quantization.names import EngineName, Recovery
    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Progress
    from pipeline.precision.rows import Precision

#: What is tried in turn until the accuracy is there.
LADDER: tuple[tuple[Recovery, ...], ...] = (("bias",), ("equalize", "bias"), ("adaround", "bias"))
#: Images that activations are compared on: those of all layers are held at once.
IMAGES = 64


@dataclass(frozen=True)
class Variant:
    """Engine, request and recovery: what makes one int8 file.

    `in_float` are names of nodes that are left in float in addition to those that the request keeps by pattern. `alike`
    makes the file round alike on every processor.
    """

    engine: EngineName
    request: QuantizeRequest
    recovery: tuple[Recovery, ...] = ()
    in_float: tuple[str, ...] = ()
    alike: bool = False

    @property
    def asked(self) -> QuantizeRequest:
        """The request with all that stays in float; a name is a pattern that matches nothing else."""
        return replace(self.request, keep=(*self.request.keep, *map(glob.escape, self.in_float)))

    def keeping(self, nodes: Sequence[str]) -> Variant:
        """Return the same with more nodes left in float."""
        return replace(self, in_float=tuple(dict.fromkeys((*self.in_float, *nodes))))

    def recovered(self, recovery: tuple[Recovery, ...]) -> Variant:
        """Return the same with other recovery."""
        return replace(self, recovery=recovery)


def build(model: ModelProto, feeds: Feeds, variant: Variant, progress: Progress | None = None) -> QuantizedGraph:
    """Return the quantized graph of a float one.

    Raises:
        InputError: the engine is not installed or cannot do what is asked, or there is nothing to equalize.
        StageError: the engine fails on this graph.
    """
    shown = progress or SilentProgress()
    matching_nodes(model, variant.asked.keep)
    given = canonical_form(model)
    # what the canonical form has no longer, such as an Identity, is in float anyway
    asked = replace(variant.asked, keep=tuple(each for each in variant.asked.keep if nodes_like(given, (each,))))
    source = equalize_channels(given)[0] if "equalize" in variant.recovery else given
    quantized = open_engine(variant.engine).quantize(source, feeds, asked)
    result = quantized.model
    few = take_samples(feeds, slice(IMAGES))
    if "adaround" in variant.recovery:
        result, _ = round_adaptively(
            source, result, few, on_layer=lambda done, of, name: shown.update(done, of, f"rounding {name}")
        )
    if "bias" in variant.recovery:
        result, _ = correct_biases(source, result, few)
    kept = nodes_like(given, asked.keep) | quantized.reasons.keys()
    if kept:
        result = hold_in_float(result, kept)
    return replace(quantized, model=round_alike(result) if variant.alike else result)


def other_precision(
    model: ModelProto, precision: Precision, *, reduced: bool = False, keep: Sequence[str] = ()
) -> ModelProto:
    """Return a float graph in another precision than static int8.

    `reduced` keeps int8 weights of products that quantize as they run in 7 bits; nodes that match a pattern of `keep`
    stay in float32.

    Raises:
        InputError: nothing in it qualifies, or a pattern of `keep` matches no node.
    """
    makers: dict[Precision, Callable[[ModelProto], ModelProto]] = {
        "fp16": lambda graph: half_graph(graph, keep=keep),
        "fp16-weights": lambda graph: half_weights(graph, keep=keep),
        "int8-dynamic": lambda graph: dynamic_int8(graph, reduced=reduced, keep=keep),
        "int8-weights": lambda graph: block_weights(graph, bits=8, keep=keep),
        "int4-weights": lambda graph: block_weights(graph, bits=4, keep=keep),
    }
    return makers[precision](model)
