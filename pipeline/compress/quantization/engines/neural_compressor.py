"""Static int8 quantization of an ONNX graph with Intel Neural Compressor 3: torch's PT2E quantizer for x86.

The graph becomes a torch network, which Neural Compressor exports, observes on the calibration images and converts; the
pairs that it placed go back into the ONNX graph, so that operators, names and biases stay as they were. Weights get a
symmetric scale for each output channel. Its recipe is that of oneDNN behind torch.compile: convolutions, linear layers,
products of two activations and what moves their results. An addition stays in float there, fused into the convolution
before it, which onnxruntime cannot do: without the pairs that `completion.py` adds, nine of the 21 convolutions of
ResNet-20 run in float and the file is slower than the float file.

Differs from Neural Compressor's defaults: `min-max` is the range of all images, where its observer averages from image
to image with a weight of 0.01 and so keeps mostly the first one's. `mse` is its "kl", whose observer minimises the
squared error, whatever its name says.
Limits: no percentile and no entropy. Its SmoothQuant is not offered: that of 3.10 imports intel_extension_for_pytorch,
whose last release is for torch 2.8.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.quantization.canonical import canonical_form
from pipeline.compress.quantization.engines import pt2e
from pipeline.compress.quantization.engines.completion import complete, require_possible, require_usable
from pipeline.compress.quantization.engines.engine import QuantizedGraph
from pipeline.compress.quantization.holding import hold_clips
from pipeline.compress.quantization.kernel_limits import beyond_kernels
from pipeline.compress.quantization.placement import (
    count_integer_nodes,
    matching_nodes,
    nodes_like,
    require_float_and_folded,
)
from pipeline.core.errors import StageError, first_line
from pipeline.core.feeds import feed_slices
from pipeline.core.quiet import quiet_libraries
from pipeline.onnx_graph.execution import onnx_batch

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import fx

    from pipeline.compress.quantization.engines.engine import QuantizeRequest
    from pipeline.compress.quantization.names import Calibration, EngineName
    from pipeline.core.feeds import Feeds

#: What it calls each way to find ranges.
_ALGORITHMS: dict[Calibration, str] = {"min-max": "minmax", "mse": "kl"}
#: What importing it warns of, and what its recipe says of operators that it leaves in float.
EXPECTED = r"`torch\.jit\.script_method` is deprecated|The input of \w+ is not quantized, skip annotate"
#: Range of weights in 7 bits.
REDUCED = (-64, 63)


class NeuralCompressor:
    """Neural Compressor's static quantization by PT2E."""

    name: EngineName = "neural-compressor"
    package = "neural-compressor"
    module = "neural_compressor"

    def quantize(self, model: ModelProto, feeds: Feeds, request: QuantizeRequest) -> QuantizedGraph:
        """See `Engine`. Schemes are u8s8, u8s8-reduced and s8s8, calibrations min-max and mse."""
        require_possible(self.name, request, _ALGORITHMS)
        require_float_and_folded(model)
        matching_nodes(model, request.keep)
        given = canonical_form(model)
        reasons = require_usable(given, feeds, request)
        kept = nodes_like(given, request.keep) | reasons.keys()
        _, found = simulate(given, feeds, request)
        result = deepcopy(given)
        pt2e.place_pairs(result.graph, found, kept)
        complete(result.graph, given, feeds, request)
        reasons |= beyond_kernels(result.graph, kept)
        return QuantizedGraph(hold_clips(result), *count_integer_nodes(result, kept | reasons.keys()), reasons)


def simulate(model: ModelProto, feeds: Feeds, request: QuantizeRequest) -> tuple[fx.GraphModule, pt2e.Pairs]:
    """Return Neural Compressor's quantized torch graph, which computes in float, and where it has its pairs.

    Raises:
        InputError: an operator has no counterpart in torch.
        StageError: Neural Compressor fails on this graph.
    """
    network = pt2e.PlacedGraph(model).eval()
    fed = [network.given(call) for call in feed_slices(feeds, max(onnx_batch(model), 1))]
    with quiet_libraries(EXPECTED, Warning), torch.no_grad():
        try:
            converted, values = _converted(network, fed, request)
        except Exception as error:
            raise StageError(
                f"neural-compressor cannot quantize this graph: {first_line(error)}. Another engine may"
            ) from error
    return converted, pt2e.read_pairs(converted, network, values)


def _converted(
    network: pt2e.PlacedGraph, fed: list[tuple[torch.Tensor, ...]], request: QuantizeRequest
) -> tuple[fx.GraphModule, dict[str, str]]:
    # An extra that may be missing. Its own `export` first tries to read bytecode, and hides why an export failed.
    from neural_compressor.torch.quantization import StaticQuantConfig, convert, prepare  # noqa: PLC0415

    exported, values = pt2e.export(network, fed[0])
    exported.dynamic_shapes, exported._exported = None, True  # type: ignore[assignment] # noqa: SLF001 - its own marks
    config = StaticQuantConfig(
        act_dtype="int8" if request.scheme == "s8s8" else "uint8",
        act_sym=request.symmetric,
        act_algo=_ALGORITHMS[request.calibration],
        w_granularity="per_channel" if request.per_channel else "per_tensor",
    )
    prepared = prepare(exported, config)
    _adjust_observers(prepared, request)
    for batch in fed:
        prepared(*batch)
    converted: fx.GraphModule = convert(prepared)
    return converted, values


def _adjust_observers(prepared: fx.GraphModule, request: QuantizeRequest) -> None:
    """Let observers of moving averages see the whole range, and those of weights use 7 bits if asked to."""
    from torchao.quantization.pt2e import observer as observers  # noqa: PLC0415 - comes with the extra

    exact: dict[Any, Any] = {}
    for node in prepared.graph.nodes:
        if node.op != "call_module" or not isinstance(
            observer := getattr(prepared, node.target), observers.UniformQuantizationObserverBase
        ):
            continue
        if type(observer) is observers.MovingAverageMinMaxObserver and observer not in exact:
            exact[observer] = observers.MinMaxObserver(
                dtype=observer.dtype,
                qscheme=observer.qscheme,
                quant_min=observer.quant_min,
                quant_max=observer.quant_max,
            )
        chosen = exact.get(observer, observer)
        if request.scheme == "u8s8-reduced" and chosen.dtype is torch.int8:
            chosen.quant_min, chosen.quant_max = REDUCED
        setattr(prepared, node.target, chosen)
