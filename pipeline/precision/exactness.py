"""Does a quantized file compute the same on two processors? What follows from its weights and operators alone.

An int8 layer is a sum of whole numbers: every kernel that sums without loss gives the same bits. The table below has
the kernels of onnxruntime that do not, each with the weights on which it fails. What a graph computes in floats between
them rounds as each processor's code does, and may differ in the last bit.

Limits: about onnxruntime. It says what can differ, on some image; `same_bits` runs the file to see what does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.compress.quantization.alike import rounding_nodes
from pipeline.compress.quantization.integer_layers import PRODUCTS, float_products, integer_layers
from pipeline.compress.quantization.saturation import can_saturate
from pipeline.core.errors import InputError
from pipeline.precision.int8_rows import AVX2, DOT_PRODUCT, ORT_GUIDE, ORT_KERNELS, VNNI
from pipeline.precision.rows import TargetRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from pipeline.compress.quantization.integer_layers import IntegerLayer
    from pipeline.precision.targets import TargetFacts

#: `same`: bit by bit. `rounding`: but for the last bits of what is computed in floats. `differs`: on some images.
Expectation = Literal["same", "rounding", "differs"]
SMALLEST = -128
#: Operators that only move, select or limit numbers, or are the integer layers themselves.
_EXACT_OPERATORS = frozenset(
    """Clip Concat Constant DepthToSpace DequantizeLinear Expand Flatten Gather Identity MaxPool Pad QuantizeLinear Relu
    Reshape Shape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze""".split()
)


@dataclass(frozen=True, kw_only=True)
class Kernel(TargetRow):
    """A kernel that loses something: for which processors, and on which layers."""

    fails: Callable[[IntegerLayer], bool]


@dataclass(frozen=True)
class Inexact:
    """A layer whose sums a processor may not compute exactly, and why."""

    layer: str
    reason: str


@dataclass(frozen=True)
class Expected:
    """What can differ between two processors: layers that lose something on either, and operators in floats."""

    expectation: Expectation
    inexact: tuple[Inexact, ...]
    floats: tuple[str, ...]


def _saturates(layer: IntegerLayer) -> bool:
    signed = layer.weight.dtype == np.int8 and not layer.is_depthwise
    return signed and bool(can_saturate(layer.kernel_weights()).size)


def _wraps(layer: IntegerLayer) -> bool:
    """Say whether an output sums two weights of -128, which 16 bits do not hold where both activations are -128."""
    return layer.weight.dtype == np.int8 and bool(((layer.kernel_weights() == SMALLEST).sum(axis=1) > 1).any())


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        name="x86-64 without VNNI",
        architecture="x86-64",
        needs=AVX2,
        lacks=VNNI,
        fails=_saturates,
        reason="two products are summed in 16 bits and clipped, and neighbouring weights are large enough for that.",
        source=ORT_GUIDE,
    ),
    Kernel(
        name="arm64 without dot products",
        architecture="arm64",
        lacks=DOT_PRODUCT,
        fails=_wraps,
        reason="two products of -128 by -128 wrap around in 16 bits, and an output of this layer has several such "
        "weights (onnxruntime 1.31.1, emulated Cortex-A72).",
        source=ORT_KERNELS,
    ),
    Kernel(
        name="arm64, depthwise",
        architecture="arm64",
        fails=lambda layer: layer.is_depthwise and _wraps(layer),
        reason="the depthwise kernel wraps around on several weights of -128, with dot products too (onnxruntime "
        "1.31.1, emulated Cortex-A76).",
        source=ORT_KERNELS,
    ),
)


def expected(model: ModelProto, here: TargetFacts, there: TargetFacts) -> Expected:
    """Return what can differ when a QDQ graph runs in onnxruntime on two targets.

    Where nothing is known of a processor every kernel of the table counts.

    Raises:
        InputError: a target is about another runtime, or no layer of the graph runs on 8-bit integers.
    """
    for target in (here, there):
        if target.runtime != "onnxruntime":
            raise InputError(f"found {target.runtime}; only onnxruntime's kernels are known: run the file instead")
    inexact = tuple(dict.fromkeys(each for target in (here, there) for each in inexact_layers(model, target)))
    products, alike = set(float_products(model)), rounding_nodes(model)
    floats = tuple(
        name
        for node in model.graph.node
        if (name := node.name or node.output[0]) in products
        or (node.op_type not in {*_EXACT_OPERATORS, *PRODUCTS} and node.name not in alike)
    )
    return Expected("differs" if inexact else "rounding" if floats else "same", inexact, floats)


def inexact_layers(model: ModelProto, target: TargetFacts) -> tuple[Inexact, ...]:
    """Return the layers of a QDQ graph whose sums onnxruntime may not compute exactly on a target, each once.

    Raises:
        InputError: no layer of the graph runs on 8-bit integers.
    """
    layers = integer_layers(model)
    if not layers:
        raise InputError("found no layer that runs on 8-bit integers; expected a QDQ graph: quantize the file first")
    facts = (target.runtime, None, target.architecture, target.flags)
    kernels = [kernel for kernel in KERNELS if not target.known or kernel.holds(*facts)]
    found: dict[str, Inexact] = {}
    for layer in layers:
        for kernel in kernels:
            if layer.name not in found and kernel.fails(layer):
                found[layer.name] = Inexact(layer.name, f"{kernel.name}: {kernel.reason}")
    return tuple(found.values())
