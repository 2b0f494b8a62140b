"""How often, and how far, the 8-bit kernels of x86 processors without VNNI saturate on a quantized file.

Before VNNI, AVX2 and AVX-512 multiply u8 activations by s8 weights with `vpmaddubsw`, which adds two neighbouring
products and clips the sum to 16 bits: 255 * 127 + 255 * 127 does not fit. This is a model of onnxruntime's kernels
(MLAS), not a run on such a processor: neighbours are 2j and 2j + 1 along the reduction axis K as `integer_layers`
orders it, with a zero added where K is odd. MLAS packs both sides in groups of four along K and its blocks of K are
multiples of four, so that this pairing holds for the matrix kernel (MlasGemmU8S8KernelAvx2 and Avx512Core), for the one
with a single row (MlasGemvU8S8KernelAvx2) and for the direct convolution (MlasConvSymKernelAvx2). Under an emulator of
such a processor onnxruntime 1.31.1 gave the modelled sums to the last bit. Depthwise convolutions widen first and never
saturate; u8 weights run on other kernels. s8 activations count as u8 ones (plus 128): so onnxruntime rewrites them on
x86. OpenVINO's kernels saturate on such processors too, but pair products in their own ways, which are not modelled.

Source: Intel SDM, VPMADDUBSW; onnxruntime/core/mlas/lib (QgemmU8X8KernelAvx2.S, ConvSymKernelAvx2.S, convsym.cpp).
Limits: each layer is looked at with the exact sums of the layers before it, so effects on effects are not counted.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compress.quantization.integer_layers import PRODUCTS, integer_layers
from pipeline.core.errors import InputError
from pipeline.core.feeds import feed_slices, sample_count
from pipeline.onnx_graph.execution import onnx_batch, onnx_traces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.integer_layers import IntegerLayer
    from pipeline.core.feeds import Feeds

LOWEST, HIGHEST, LARGEST_U8 = -(2**15), 2**15 - 1, 255
_SIGN_OFFSET = 128
#: Output positions looked at for each layer and image.
_POSITIONS = 256
#: Sums that are held at a time.
_TILE = 2**20


@dataclass(frozen=True)
class LayerSaturation:
    """One layer on the images.

    `possible` is how many pairs of weights could saturate for some input: zero means never, whatever the image. Of
    `sums` pair sums on the positions looked at, `saturated` were clipped; `outputs` is the share of output values that
    change by it. `effect` is the largest change of an output over the largest output of the layer. `sampled` says
    whether positions were left out.
    """

    layer: str
    operator: str
    possible: int
    sums: int
    saturated: int
    outputs: float
    effect: float
    sampled: bool


@dataclass(frozen=True)
class Saturation:
    """All layers on the kernels that saturate, in the order of the graph, and the products that run elsewhere."""

    layers: tuple[LayerSaturation, ...]
    elsewhere: tuple[str, ...]
    images: int

    @property
    def saturated(self) -> int:
        """Sums that were clipped, in all layers."""
        return sum(layer.saturated for layer in self.layers)


def count_saturation(model: ModelProto, feeds: Feeds, *, positions: int = _POSITIONS) -> Saturation:
    """Count the pair sums of a QDQ graph that would saturate without VNNI, on real images.

    `feeds` are samples as the network takes them. For each layer and image at most `positions` output positions
    are looked at: every n-th with the smallest n that keeps to it, from the (image mod n)-th on, so that images look at
    different places. Memory is that of one inference and some 20 MB; time grows with the pairs that could saturate.

    Raises:
        InputError: there is no sample, or the graph has no integer layer at all.
    """
    layers = integer_layers(model)
    if not layers or not sample_count(feeds):
        found = "no sample" if layers else "no layer that runs on 8-bit integers"
        raise InputError(f"saturation needs a QDQ graph and samples, found {found}; quantize the file first")
    counters = [_Counter(layer) for layer in layers if layer.weight.dtype == np.int8 and not layer.is_depthwise]
    for image, tensors in enumerate(_integers(model, feeds, [counter.layer for counter in counters])):
        for counter in counters:
            counter.add(tensors[counter.layer.activations], tensors[counter.layer.output], image, positions)
    counted = {counter.layer.output for counter in counters}
    names = [
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type in PRODUCTS and node.output[0] not in counted
    ]
    return Saturation(tuple(counter.result() for counter in counters), tuple(names), sample_count(feeds))


def can_saturate(weights_GKM: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return places [3, n] (group, pair, channel) of weight pairs that saturate for some u8 input.

    `weights_GKM` [groups, K, M] are s8. Without a place the layer never saturates: so it is with weights of 7 bits,
    since 255 * (64 + 64) still fits.
    """
    first, second = _pairs(weights_GKM)
    high = LARGEST_U8 * (np.maximum(first, 0) + np.maximum(second, 0))
    low = LARGEST_U8 * (np.minimum(first, 0) + np.minimum(second, 0))
    return np.array(np.nonzero((high > HIGHEST) | (low < LOWEST)), dtype=np.int64)


class _Counter:
    """Counts over the images of one layer."""

    def __init__(self, layer: IntegerLayer) -> None:
        self.layer = layer
        weights = layer.kernel_weights()
        self.first, self.second = _pairs(weights)
        # Sorted by output channel, so that a channel's sums lie together.
        places = can_saturate(weights)
        self.places = places[:, np.lexsort((places[1], places[2], places[0]))]
        self.sums = self.saturated = self.touched = self.values = 0
        self.change = self.largest = 0.0
        self.sampled = False

    def add(self, x: NDArray[Any], output: NDArray[np.float32], image: int, positions: int) -> None:
        self.largest = max(self.largest, float(np.abs(output).max(initial=0.0)))
        total = self.layer.positions(output.shape)
        step = max(-(-total // positions), 1)
        chosen = np.arange(image % step, total, step)
        self.sampled |= step > 1
        self.sums += len(chosen) * self.first.size
        self.values += len(chosen) * self.layer.w_scale.size
        if self.places.size:
            self._count(self.layer.rows(x, output.shape, chosen).astype(np.int32))

    def _count(self, rows_GPK: NDArray[np.int32]) -> None:
        if self.layer.x_signed:
            rows_GPK = rows_GPK + _SIGN_OFFSET
        even, odd = _pairs(rows_GPK.transpose(0, 2, 1))
        width = self.first.shape[2]
        changes: dict[int, NDArray[np.int64]] = {}
        for group, pair, channel in self._tiles(rows_GPK.shape[1]):
            one, other = self.first[group, pair, channel], self.second[group, pair, channel]
            sums = even[group, pair] * one[:, None] + odd[group, pair] * other[:, None]
            clipped = np.clip(sums, LOWEST, HIGHEST) - sums
            self.saturated += int(np.count_nonzero(clipped))
            starts = np.flatnonzero(np.diff(group * width + channel, prepend=-1))
            for start, change in zip(starts, np.add.reduceat(clipped, starts, axis=0), strict=True):
                key = int(group[start] * width + channel[start])
                changes[key] = changes.get(key, 0) + change
        for key, change in changes.items():
            self.touched += int(np.count_nonzero(change))
            moved = float(np.abs(change).max(initial=0)) * self.layer.x_scale * float(self.layer.w_scale[key])
            self.change = max(self.change, moved)

    def _tiles(self, rows: int) -> Iterator[NDArray[np.int64]]:
        size = max(_TILE // max(rows, 1), 1)
        for start in range(0, self.places.shape[1], size):
            yield self.places[:, start : start + size]

    def result(self) -> LayerSaturation:
        return LayerSaturation(
            layer=self.layer.name,
            operator=self.layer.operator,
            possible=self.places.shape[1],
            sums=self.sums,
            saturated=self.saturated,
            outputs=self.touched / self.values if self.values else 0.0,
            effect=self.change / self.largest if self.largest else self.change,
            sampled=self.sampled,
        )


def _pairs(values: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the even and the odd entries along the second axis [G, K, ...], filled up with a zero."""
    if values.shape[1] % 2:
        values = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
    return values[:, 0::2], values[:, 1::2]


def _integers(model: ModelProto, feeds: Feeds, layers: Sequence[IntegerLayer]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the integers that go into each layer and the floats that come out, inference by inference.

    Nothing is optimised, so that the graph computes what it says, in float32; the last batch is filled up.
    """
    if not layers:
        return
    wanted = {name for layer in layers for name in (layer.activations, layer.output)}
    calls = feed_slices(feeds, max(onnx_batch(model), 1))
    yield from onnx_traces(deepcopy(model), calls, wanted, label="the quantized graph")
