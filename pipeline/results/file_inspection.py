"""What an exported file computes: precision, weights, ranges, time and noise of each layer, and what is wrong with it.

A layer is a node of the file that depends on the input; QuantizeLinear and DequantizeLinear (FakeQuantize in an IR)
are not layers but belong to the tensors they stand on. A number that was not measured is absent. Ratios of signal to
noise are in dB, times in nanoseconds of one inference under the runtime's profiler, bytes as stored in the file.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from pipeline.core.artifact import FrozenModel, TensorSpec
from pipeline.core.one_of import one_of
from pipeline.core.runtimes import exported_forms
from pipeline.core.stage import Runtime
from pipeline.results.comparison import result_schema

#: How a layer computes. `int8` and its like: integers in, integer weights. `weight-only`: integer weights that are
#: widened before they are multiplied. `other`: whole numbers of shapes and indices, truth values.
Precision = Literal["int4", "int8", "int16", "weight-only", "float16", "bfloat16", "float32", "float64", "other"]
FLOATS: frozenset[Precision] = frozenset({"float16", "bfloat16", "float32", "float64"})
INTEGERS: frozenset[Precision] = frozenset({"int4", "int8", "int16"})
#: Stands for tensors that are equal: float32 itself, with its 24 bits, has about 146 dB.
SQNR_CEILING_DB = 150.0
PROFILE_NOTE = "share of profiled time; profiling itself takes time, so this is no latency"

FindingKind = Literal[
    "left in float", "float island", "runs in float", "zero scale", "saturated", "clipped", "dead channels"
]


class Quantizer(FrozenModel):
    """How a tensor is turned into whole numbers: number = round(value / scale) + zero point, kept within the type.

    Scales are as they stand in the file, NaN and infinity too, which JSON then has as null.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    tensor: str = Field(description="The tensor before it is quantized; of stored weights, the stored tensor.")
    dtype: str = Field(description="Integer type, such as uint8.")
    bits: int
    scales: int = Field(description="1: one for the tensor. More: one per channel or block.")
    axis: int | None = Field(default=None, description="The dimension with a scale per position or block.")
    block: int | None = Field(default=None, description="Numbers along the axis that share a scale, if they do.")
    scale_min: float | None = Field(default=None, description="Unsigned. Absent: the scale is computed for each input.")
    scale_max: float | None = None
    zero_point_min: int | None = None
    zero_point_max: int | None = None
    low: float | None = Field(default=None, description="Smallest representable value, over all channels.")
    high: float | None = Field(default=None, description="Largest representable value, over all channels.")

    @property
    def granularity(self) -> str:
        """What has a scale of its own."""
        if self.scales == 1:
            return "per-tensor"
        return "per-block" if self.block else "per-channel"

    @property
    def bounded_below(self) -> bool:
        """Whether values start at zero, so that quantizing is also a ReLU."""
        return self.low is not None and self.low >= 0


class Weights(FrozenModel):
    """The stored tensor that a layer multiplies with."""

    tensor: str
    dtype: str = Field(description="Type as stored: int8, float16, float32.")
    bits: int = Field(description="Bits of one number when it is multiplied, if known; else as stored.")
    shape: tuple[int, ...]
    size_bytes: int
    quantizer: Quantizer | None = None

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class FileLayer(FrozenModel):
    """One node of the file."""

    name: str = Field(description="Name of the node; that of its first output if the node has none or shares it.")
    operator: str
    precision: Precision = Field(description="The precision in which the file says it is computed.")
    weights: Weights | None = None
    reads: tuple[Quantizer, ...] = Field(default=(), description="Quantizers of its inputs, where they have one.")
    makes: Quantizer | None = Field(default=None, description="Quantizer of the output.")
    parameters: int = Field(default=0, description="Numbers stored for it: weights, bias, other constants.")
    size_bytes: int = Field(default=0, description="Bytes of all these, with scales and zero points.")
    saturated_bias: bool = Field(default=False, description="Whether a stored bias is at the limit of 32 bits.")
    macs: int | None = Field(default=None, description="Multiply-accumulates for one input.")
    outputs: int | None = Field(default=None, description="Numbers in its first output, for one input.")
    time_ns: float | None = Field(default=None, description="Absent if it is computed within another layer.")
    ran_as: str | None = Field(default=None, description="What the runtime ran, by its own name.")
    ran_in: Precision | None = Field(default=None, description="The precision in which the runtime computed it.")
    fused_into: str | None = Field(default=None, description="The layer within which the runtime computes it.")
    sqnr_db: float | None = Field(
        default=None,
        description="Signal-to-quantization-noise ratio of its output, with all layers before it quantized too.",
    )
    own_sqnr_db: float | None = Field(
        default=None, description="The same with inputs from the float file: what this layer alone adds."
    )
    channels: int | None = Field(default=None, description="Output channels, for layers with weights.")
    dead_channels: int | None = Field(default=None, description="Channels that never changed on the given inputs.")
    lost_channels: int | None = Field(default=None, description="Those of them that change in the float file.")
    clipped: float | None = Field(default=None, description="Share of outputs beyond the range of its quantizer.")

    @property
    def computed_in(self) -> Precision:
        """What the runtime computed in; where that is not known, what the file asks for.

        Widened weights are multiplied in float: that is what weight-only means.
        """
        if self.ran_in is None or (self.precision == "weight-only" and self.ran_in in FLOATS):
            return self.precision
        return self.ran_in


class OperatorTime(FrozenModel):
    """All that the runtime ran of one kind."""

    operator: str = Field(description="By the runtime's own name.")
    nodes: int
    time_ns: float
    share: float = Field(description="0 to 1.")


class RuntimeProfile(FrozenModel):
    """Where the time goes, by the runtime's own profiler."""

    runtime: Runtime
    version: str
    threads: int
    runs: int = Field(description="Profiled inferences per time.")
    time_ns: float = Field(description="Sum over all nodes.")
    elsewhere_ns: float = Field(description="For nodes that the runtime added or that belong to no layer: conversions.")
    operators: tuple[OperatorTime, ...]
    note: str = PROFILE_NOTE


class FloatIsland(FrozenModel):
    """Layers that compute in float between integer ones: what they read is widened, what they make narrowed again."""

    layers: tuple[str, ...]
    operators: tuple[str, ...]
    tensors: tuple[str, ...] = Field(description="Tensors that are converted, each once.")
    converted_bytes: int | None = Field(description="Bytes read and written by these conversions, for one input.")


class Finding(FrozenModel):
    """Something to look at."""

    kind: FindingKind
    message: str
    layers: tuple[str, ...]


class FileInspection(FrozenModel):
    """All that `secateur inspect` tells about one exported file."""

    format: Literal[1] = 1
    form: Annotated[str, one_of(exported_forms)]
    file: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    samples: str = Field(description="What the file was run on, in words.")
    against: str | None = Field(default=None, description="The float file that it was compared with.")
    parameters: int
    macs: int = Field(description="For the layers whose multiply-accumulates are known.")
    integer_macs: int = Field(description="For those that compute on integers.")
    layers: tuple[FileLayer, ...] = Field(description="In the order of computation.")
    profile: RuntimeProfile | None = None
    islands: tuple[FloatIsland, ...]
    findings: tuple[Finding, ...]

    @property
    def loses_most(self) -> tuple[FileLayer, ...]:
        """Layers whose noise was measured, the noisiest first: by their own noise where it is known."""
        measured = [layer for layer in self.layers if _noise(layer) < SQNR_CEILING_DB]
        return tuple(sorted(measured, key=_noise))

    def time_share(self, layer: FileLayer) -> float | None:
        """Return a layer's share of the profiled time, 0 to 1; None where it has no time of its own."""
        if layer.time_ns is None or self.profile is None or self.profile.time_ns == 0:
            return None
        return layer.time_ns / self.profile.time_ns


def _noise(layer: FileLayer) -> float:
    """Return what a layer is judged by; the ceiling where nothing was measured."""
    known = (ratio for ratio in (layer.own_sqnr_db, layer.sqnr_db) if ratio is not None)
    return next(known, SQNR_CEILING_DB)


#: The function that returns the JSON Schema (2020-12) which `secateur schema inspection` prints.
schema = partial(result_schema, FileInspection)
