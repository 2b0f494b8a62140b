"""What every quantization engine takes and gives: an FP32 ONNX graph with samples in, the graph in QDQ form out."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from pipeline.compress.quantization.names import Calibration, EngineName, Scheme
    from pipeline.core.feeds import Feeds


@dataclass(frozen=True)
class QuantizeRequest:
    """How a graph is to be quantized.

    `scheme` names the types of activations and weights (u unsigned, s signed; `reduced`: weights in 7 bits). With
    `symmetric` the ranges of activations are centred on zero. Nodes whose name matches a pattern of `keep` stay in
    float. An engine that lacks one of these raises InputError rather than doing something else.
    """

    scheme: Scheme
    per_channel: bool
    symmetric: bool
    calibration: Calibration
    percentile: float
    keep: tuple[str, ...]


@dataclass(frozen=True)
class QuantizedGraph:
    """The quantized graph, how many nodes of each operator work on integers, and the names of those that do not.

    `reasons` say of nodes that could not be quantized rightly why they were left in float.
    """

    model: ModelProto
    nodes: dict[str, int]
    float_nodes: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """A way to place QuantizeLinear / DequantizeLinear pairs and to find their scales.

    `package` is the distribution that does it and `module` what it is imported as.
    """

    name: EngineName
    package: str
    module: str

    def quantize(self, model: ModelProto, feeds: Feeds, request: QuantizeRequest) -> QuantizedGraph:
        """Return the graph in QDQ form; the given one stays as it is. `feeds` are calibration samples.

        Raises:
            InputError: the request asks for what the engine cannot do, or the graph is quantized already.
            StageError: the engine fails on this graph.
        """


def missing_engine(engine: Engine) -> str | None:
    """Return the command that installs what an engine needs; None when it is there."""
    return None if find_spec(engine.module) else f"pip install 'secateur[{engine.name}]'"
