"""ONNX operators that choose, move and repeat values without computing with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PAD_MODES = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}


def reshape(attributes: Mapping[str, Any], x: Tensor, shape: Sequence[int] | None) -> Tensor:
    """Reshape; 0 keeps the dimension at its place, no numbers at all make a scalar."""
    keep = not attributes.get("allowzero")
    return x.reshape([x.shape[i] if size == 0 and keep else size for i, size in enumerate(shape or ())])


def flatten(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Join the dimensions before and from `axis`."""
    axis = attributes.get("axis", 1)
    return x.flatten(1) if axis == 1 and x.dim() > 1 else x.reshape(math.prod(x.shape[:axis]), -1)


def squeeze(attributes: Mapping[str, Any], x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Leave out dimensions of length 1."""
    chosen = axes if axes is not None else attributes.get("axes")
    return x.squeeze(tuple(chosen)) if chosen else x.squeeze()


def unsqueeze(attributes: Mapping[str, Any], x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Put in dimensions of length 1; axes count in the result."""
    chosen = axes if axes is not None else attributes["axes"]
    dims = x.dim() + len(chosen)
    for axis in sorted(axis % dims for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def slice_(
    attributes: Mapping[str, Any],
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    """Slice along axes; a negative step walks backwards."""
    del attributes
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] if axes else place
        positions = range(x.shape[axis])[slice(start, end, steps[place] if steps else 1)]
        if positions.step == 1:
            x = x.narrow(axis, min(positions.start, x.shape[axis]), len(positions))
        else:
            x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.long, device=x.device))
    return x


def split(attributes: Mapping[str, Any], x: Tensor, sizes: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Split into parts of the given sizes, or into equal ones of which the last may be smaller."""
    axis = attributes.get("axis", 0)
    length = x.shape[axis]
    each = math.ceil(length / attributes["num_outputs"]) if sizes is None else 0
    lengths = sizes or [min(each, length - start) for start in range(0, length, each)]
    return torch.split_with_sizes(x, list(lengths), axis)


def gather(attributes: Mapping[str, Any], x: Tensor, indices: Tensor) -> Tensor:
    """Pick entries along an axis; the indices' shape takes its place."""
    axis = attributes.get("axis", 0) % x.dim()
    flat = indices.reshape(-1) % x.shape[axis]
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def pad(
    attributes: Mapping[str, Any],
    x: Tensor,
    pads: Sequence[int],
    value: Sequence[float] | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Pad with a constant, or by reflection, repetition of the edge, or from the other side."""
    half = len(pads) // 2
    chosen = [axis % x.dim() for axis in axes] if axes else list(range(half))
    begins, ends = dict(zip(chosen, pads[:half], strict=True)), dict(zip(chosen, pads[half:], strict=True))
    mode = _PAD_MODES[attributes.get("mode", b"constant")]
    if mode == "constant":
        pairs = [side.get(axis, 0) for axis in reversed(range(x.dim())) for side in (begins, ends)]
        return functional.pad(x, pairs, value=value[0] if value else 0.0)
    for axis in chosen:  # torch pads the last dimension of three in every mode
        if begins[axis] or ends[axis]:
            last = x.movedim(axis, -1)
            wide = functional.pad(last.reshape(1, -1, last.shape[-1]), [begins[axis], ends[axis]], mode=mode)
            x = wide.reshape(*last.shape[:-1], wide.shape[-1]).movedim(-1, axis)
    return x


def depth_to_space(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Move channels into blocks of pixels: DCR has the blocks' places before the channels, CRD behind."""
    size = attributes["blocksize"]
    batch, channels, height, width = x.shape
    narrow = channels // size**2
    if attributes.get("mode", b"DCR") == b"CRD":
        parts = x.reshape(batch, narrow, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(batch, size, size, narrow, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, narrow, height * size, width * size)


def space_to_depth(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Move blocks of pixels into channels."""
    size = attributes["blocksize"]
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, channels * size**2, height // size, width // size)
