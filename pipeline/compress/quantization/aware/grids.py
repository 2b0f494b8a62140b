"""Scales and zero points of activations and weights as onnxruntime's quantizer finds them, as torch functions.

What is trained must be what the file computes, to the last bit of a scale: hence the 64 bits in between.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.compress.quantization.biases import LARGEST_BIAS
from pipeline.compress.quantization.placement import QUANTIZABLE
from pipeline.compress.quantization.qdq import SIGN, SMALLEST_SCALE
from pipeline.compress.quantization.torch_graph.graph_module import LIMITS, fake_quantize

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx import ModelProto

#: Makes values between 0 and 1, whatever the images were.
_BOUNDED = {"Softmax": (0.0, 1.0)}


class Grid(NamedTuple):
    """Scale and zero point, which broadcast against a tensor, and the smallest and largest number."""

    scale: Tensor
    zero_point: Tensor
    limits: tuple[int, int]

    def round(self, x: Tensor) -> Tensor:
        """Return what is left of `x` after quantizing and dequantizing."""
        return fake_quantize(x, self.scale, self.zero_point, self.limits)


def activation_grid(bounds: Tensor, kind: np.dtype[np.generic], *, symmetric: bool) -> Grid:
    """Return the grid of a range [2], widened to hold zero, and with `symmetric` centred on it."""
    low, high = bounds[0].clamp(max=0).double(), bounds[1].clamp(min=0).double()
    smallest, largest = LIMITS[kind]
    if symmetric:
        high = torch.maximum(-low, high)
        low, smallest = -high, -largest if kind == np.int8 else smallest
    scale = (high - low) / (largest - smallest)
    point = torch.full_like(scale, round((smallest + largest) / 2)) if symmetric else smallest - low / scale
    return _usable(scale, point, (smallest, largest))


def weight_grid(weight: Tensor, axis: int | None, *, unsigned: bool, centred: bool, largest: int) -> Grid:
    """Return the grid of weights, with a scale for each entry along `axis`, or one for all where that is None.

    Signed numbers go from -`largest` to `largest`; those without sign are `centred` on 128, or use their whole range.
    """
    dims = [dim for dim in range(weight.dim()) if axis is None or dim != axis % weight.dim()]
    fixed = weight.detach()
    low, high = fixed.amin(dims, keepdim=True).clamp(max=0), fixed.amax(dims, keepdim=True).clamp(min=0)
    reach = torch.maximum(-low, high).double()
    if not unsigned:
        return _usable(reach / largest, torch.zeros_like(reach), (-largest, largest))
    scale = (2 * reach if centred else high.double() - low.double()) / 255
    return _usable(scale, torch.full_like(scale, SIGN) if centred else -low / scale, (0, 255))


def with_room_for(grid: Grid, weight: Tensor, axis: int, bias: Tensor, input_scale: Tensor) -> Grid:
    """Return the grid of weights with scales so large that the bias fits, as `biases.py` finds them for the file.

    `axis` of the weights counts outputs.
    """
    rounded = torch.round(weight.detach() / grid.scale + grid.zero_point).clamp(*grid.limits) == grid.zero_point
    channels = rounded.movedim(axis, 0).flatten(1).all(1)
    dead = channels if grid.scale.numel() > 1 else channels.all()
    x_scale = input_scale.double()
    size = bias.detach().abs().double().reshape(-1, len(channels)).amax(0)
    least = torch.maximum(size / (LARGEST_BIAS * x_scale), 2 * SMALLEST_SCALE / x_scale)
    needed = torch.where(size > 0, least, torch.zeros_like(least)).float()
    own = grid.scale.reshape(-1)
    wanted = needed if grid.scale.numel() > 1 else needed.max()
    found = torch.maximum(torch.where(dead & (wanted > 0), wanted, own), needed).expand(len(channels))
    return grid._replace(scale=found.reshape([-1 if dim == axis % weight.dim() else 1 for dim in range(weight.dim())]))


def bias_grid(weights: Grid, input_scale: Tensor, outputs: int) -> Grid:
    """Return the grid of a bias: that of the sums which it is added to, in every group of a transposed convolution."""
    scale = input_scale * weights.scale.reshape(-1)
    scale = scale.repeat(outputs // scale.numel()) if scale.numel() > 1 else scale
    return Grid(scale, torch.zeros_like(scale), LIMITS[np.dtype(np.int32)])


def shared_ranges(model: ModelProto, kept: Collection[str]) -> dict[str, str]:
    """Return whose range a tensor takes where that is another one: what a ReLU or Clip alone reads takes its output's.

    As onnxruntime's quantizer does, in the order of the nodes.
    """
    readers = Counter(value for node in model.graph.node for value in node.input)
    readers.update(value.name for value in model.graph.output)
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in {"Relu", "Clip"} and node.name not in kept and readers[node.input[0]] == 1:
            found[node.input[0]] = found.get(node.output[0], node.output[0])
    return found


def fixed_ranges(model: ModelProto, kept: Collection[str]) -> dict[str, tuple[float, float]]:
    """Return the ranges that do not depend on images."""
    return {
        node.output[0]: _BOUNDED[node.op_type]
        for node in model.graph.node
        if node.op_type in _BOUNDED and node.op_type in QUANTIZABLE and node.name not in kept
    }


def _usable(scale: Tensor, point: Tensor, limits: tuple[int, int]) -> Grid:
    usable = scale >= SMALLEST_SCALE  # smaller ones become 1, with the zero point 0
    scale = torch.where(usable, scale, torch.ones_like(scale)).float()
    return Grid(scale, torch.where(usable, torch.round(point), torch.zeros_like(point)).float(), limits)
