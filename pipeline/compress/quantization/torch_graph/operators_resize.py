"""ONNX Resize: nearest, linear and cubic, with each way of placing the new pixels between the old ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    #: Places of old pixels and their weights, both by new pixel.
    Tap = tuple[NDArray[np.int64], Array]

ONE, HALF = np.float32(1), np.float32(0.5)
#: How a coordinate between pixels becomes the nearest one.
_NEAREST: dict[bytes, Callable[[Any], Any]] = {
    b"round_prefer_floor": lambda x: np.ceil(x - HALF),
    b"round_prefer_ceil": lambda x: np.floor(x + HALF),
    b"floor": np.floor,
    b"ceil": np.ceil,
}
_INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(
    attributes: Mapping[str, Any],
    x: Tensor,
    region: Any = None,  # noqa: ANN401 - numbers, for cropping only
    scales: Sequence[float] | None = None,
    sizes: Sequence[float] | None = None,
) -> Tensor:
    """Resize dimensions one after the other; those of an image at once where torch does the same.

    Raises InputError for cropping, anti-aliasing and for keeping the aspect ratio.
    """
    del region
    _require_known(attributes)
    axes = [axis % x.dim() for axis in attributes.get("axes", range(x.dim()))]
    if sizes:
        lengths = [int(size) for size in sizes]
        factors = [length / x.shape[axis] for axis, length in zip(axes, lengths, strict=True)]
    else:
        factors = list(scales or [])
        lengths = [math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    changed = [place for place in zip(axes, lengths, factors, strict=True) if place[2] != 1]
    if _is_torchs(attributes, x, changed):
        return _interpolated(attributes, x, changed)
    for axis, length, factor in changed:
        places = _places(attributes, x.shape[axis], length, np.float32(factor))
        x = _combined(x, axis, list(_taps(attributes, places, x.shape[axis])))
    return x


def _require_known(attributes: Mapping[str, Any]) -> None:
    policy = attributes.get("keep_aspect_ratio_policy", b"stretch")
    cropped = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    if cropped or attributes.get("antialias") or policy != b"stretch":
        raise InputError(
            "Resize with cropping, antialias or a policy for the aspect ratio has no counterpart in torch here"
        )


def _is_torchs(attributes: Mapping[str, Any], x: Tensor, changed: Sequence[tuple[int, int, float]]) -> bool:
    """Return whether all new pixels lie where torch's interpolate has them too."""
    mode = attributes.get("coordinate_transformation_mode", b"half_pixel")
    if [axis for axis, _, _ in changed] != list(range(2, x.dim())) or x.dim() - 2 not in _INTERPOLATIONS:
        return False
    if any(length != x.shape[axis] * factor for axis, length, factor in changed):
        return False
    if attributes.get("mode", b"nearest") == b"nearest":
        whole = all(float(factor).is_integer() for _, _, factor in changed)
        return whole and mode == b"asymmetric" and attributes.get("nearest_mode") == b"floor"
    return attributes["mode"] == b"linear" and mode in {b"half_pixel", b"align_corners"}


def _interpolated(attributes: Mapping[str, Any], x: Tensor, changed: Sequence[tuple[int, int, float]]) -> Tensor:
    lengths = [length for _, length, _ in changed]
    if attributes.get("mode", b"nearest") == b"nearest":
        return functional.interpolate(x, lengths, mode="nearest")
    aligned = attributes.get("coordinate_transformation_mode", b"half_pixel") == b"align_corners"
    return functional.interpolate(x, lengths, mode=_INTERPOLATIONS[len(lengths)], align_corners=aligned)


def _places(attributes: Mapping[str, Any], before: int, after: int, factor: np.float32) -> Array:
    """Return where new pixels lie, counted in old ones, in float32 as runtimes compute it."""
    mode = attributes.get("coordinate_transformation_mode", b"half_pixel")
    new = np.arange(after, dtype=np.float32)
    if mode == b"asymmetric":
        return new / factor
    if mode == b"align_corners":
        return new * np.float32((before - 1) / (after - 1)) if after > 1 else new * 0
    if mode == b"pytorch_half_pixel" and after == 1:
        return new * 0
    half_pixel = (new + HALF) / factor - HALF
    if mode == b"half_pixel_symmetric":
        return half_pixel + np.float32(before / 2) * (ONE - np.float32(after) / (factor * np.float32(before)))
    return half_pixel


def _taps(attributes: Mapping[str, Any], places: Array, before: int) -> Iterator[Tap]:
    """Yield the old pixels that make each new one, and their weights."""
    mode = attributes.get("mode", b"nearest")
    if mode == b"nearest":
        rounded = _NEAREST[attributes.get("nearest_mode", b"round_prefer_floor")](places)
        yield np.clip(rounded, 0, before - 1).astype(np.int64), np.ones_like(places)
    elif mode == b"linear":
        inside = np.clip(places, 0, before - 1)
        left = np.floor(inside).astype(np.int64)
        yield left, ONE - (inside - left)
        yield np.minimum(left + 1, before - 1), inside - left
    else:
        yield from _cubic(attributes, places, before)


def _cubic(attributes: Mapping[str, Any], places: Array, before: int) -> Iterator[Tap]:
    """Yield four neighbours with the weights of cubic convolution (Keys 1981)."""
    a = np.float32(attributes.get("cubic_coeff_a", -0.75))
    left = np.floor(places)
    taps: list[Tap] = []
    for shift in (-1, 0, 1, 2):
        distance = np.abs(places - left - np.float32(shift))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        index = left.astype(np.int64) + shift
        weight = np.where(distance <= 1, near, far).astype(np.float32)
        if attributes.get("exclude_outside"):
            weight = np.where((index >= 0) & (index < before), weight, np.float32(0))
        taps.append((np.clip(index, 0, before - 1), weight))
    total = sum(weight for _, weight in taps) if attributes.get("exclude_outside") else ONE
    yield from ((index, weight / total) for index, weight in taps)


def _combined(x: Tensor, axis: int, taps: Sequence[Tap]) -> Tensor:
    """Return the weighted sum of old pixels along one axis."""
    parts = [x.index_select(axis, torch.from_numpy(index).to(x.device)) for index, _ in taps]
    if len(taps) == 1:
        return parts[0]
    along = [-1 if dim == axis else 1 for dim in range(x.dim())]
    weights = [torch.from_numpy(np.asarray(weight, np.float32)).to(x.device).reshape(along) for _, weight in taps]
    return torch.stack([part * weight for part, weight in zip(parts, weights, strict=True)]).sum(0)
