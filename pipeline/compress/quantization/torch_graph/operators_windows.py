"""ONNX operators that slide a window over an image or a sequence: convolutions and pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_AVERAGES = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def window_arguments(
    attributes: Mapping[str, Any], lengths: Sequence[int], size: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and pads (all begins, then all ends) of a window of `size` over these lengths."""
    spatial = len(size)
    strides = list(attributes.get("strides", [1] * spatial))
    dilations = list(attributes.get("dilations", [1] * spatial))
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode == b"NOTSET":
        return strides, dilations, list(attributes.get("pads", [0] * 2 * spatial))
    if mode == b"VALID":
        return strides, dilations, [0] * 2 * spatial
    totals = [
        max((math.ceil(length / stride) - 1) * stride + (each - 1) * dilation + 1 - length, 0)
        for length, each, stride, dilation in zip(lengths, size, strides, dilations, strict=True)
    ]
    return strides, dilations, _shared(totals, upper=mode == b"SAME_UPPER")


def convolution(attributes: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv; padding that is equal on both sides is the convolution's own."""
    spatial = weight.dim() - 2
    strides, dilations, pads = window_arguments(attributes, x.shape[2:], weight.shape[2:])
    groups = attributes.get("group", 1)
    if pads[:spatial] == pads[spatial:]:
        return CONVOLUTIONS[spatial](x, weight, bias, strides, pads[:spatial], dilations, groups)
    return CONVOLUTIONS[spatial](_padded(x, pads), weight, bias, strides, 0, dilations, groups)


def transposed_convolution(
    attributes: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """ConvTranspose: computed without padding, which is then cut off."""
    spatial = weight.dim() - 2
    extra = list(attributes.get("output_padding", [0] * spatial))
    groups = attributes.get("group", 1)
    strides, dilations, pads = window_arguments({**attributes, "auto_pad": b"NOTSET"}, x.shape[2:], weight.shape[2:])
    full = _TRANSPOSED[spatial](x, weight, bias, strides, 0, extra, groups, dilations)
    mode = attributes.get("auto_pad", b"NOTSET")
    wanted = attributes.get("output_shape")
    if mode in {b"SAME_UPPER", b"SAME_LOWER"} or wanted:
        lengths = wanted or [length * stride for length, stride in zip(x.shape[2:], strides, strict=True)]
        totals = [own - length for own, length in zip(full.shape[2:], lengths[-spatial:], strict=True)]
        pads = _shared(totals, upper=mode == b"SAME_UPPER")
    return _padded(full, [-each for each in pads])


def max_pool(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """MaxPool; the padding never wins."""
    size = list(attributes["kernel_shape"])
    strides, dilations, pads = window_arguments(attributes, x.shape[2:], size)
    spatial, ceil = len(size), bool(attributes.get("ceil_mode", 0))
    if _is_torchs(pads, size):
        return _MAXIMA[spatial](x, size, strides, pads[:spatial], dilations, ceil)
    beyond = _beyond(x.shape[2:], size, (strides, dilations, pads), ceil=ceil)
    return _MAXIMA[spatial](_padded(_padded(x, pads, -math.inf), beyond, -math.inf), size, strides, 0, dilations)


def average_pool(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """AveragePool; by default what is padded does not count, and what `ceil_mode` adds never does."""
    size = list(attributes["kernel_shape"])
    strides, dilations, pads = window_arguments(attributes, x.shape[2:], size)
    spatial, ceil = len(size), bool(attributes.get("ceil_mode", 0))
    counted = bool(attributes.get("count_include_pad", 0))
    if _is_torchs(pads, size) and all(dilation == 1 for dilation in dilations):
        return _AVERAGES[spatial](x, size, strides, pads[:spatial], ceil, counted)
    beyond = _beyond(x.shape[2:], size, (strides, dilations, pads), ceil=ceil)
    places = x.new_ones(1, 1, *x.shape[2:])

    def sums(values: Tensor, padding: float) -> Tensor:
        padded = _padded(_padded(values.flatten(0, 1)[:, None], pads, padding), beyond)
        ones = x.new_ones(1, 1, *size)
        return CONVOLUTIONS[spatial](padded, ones, None, strides, 0, dilations)

    shares = sums(x, 0.0) / sums(places, float(counted))
    return shares.reshape(*x.shape[:2], *shares.shape[2:])


def global_average(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Mean over all spatial dimensions, which stay with length 1."""
    del attributes
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def _shared(totals: Sequence[int], *, upper: bool) -> list[int]:
    """Share out padding: begins, then ends; the odd one stands at the end, or with `upper` false at the begin."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return small + large if upper else large + small


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the spatial dimensions, or cut them where negative: all begins, then all ends."""
    half = len(pads) // 2
    pairs = [pads[axis + half * end] for axis in reversed(range(half)) for end in (0, 1)]
    return functional.pad(x, pairs, value=value) if any(pairs) else x


def _is_torchs(pads: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether torch's pooling can pad like this: equal on both sides, by half a window at most."""
    half = len(size)
    return pads[:half] == pads[half:] and all(2 * pad <= each for pad, each in zip(pads, size, strict=False))


def _beyond(
    lengths: Sequence[int], size: Sequence[int], steps: tuple[list[int], list[int], list[int]], *, ceil: bool
) -> list[int]:
    """Return by how much the last windows stand out beyond the padding; each starts inside the image or before it."""
    ends = []
    for axis, (length, each, stride, dilation) in enumerate(zip(lengths, size, *steps[:2], strict=True)):
        begin, end = steps[2][axis], steps[2][axis + len(size)]
        reach = (each - 1) * dilation + 1
        room = length + begin + end - reach
        count = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (count - 1) * stride >= length + begin:
            count -= 1
        ends.append(max((count - 1) * stride + reach - (length + begin + end), 0))
    return [0] * len(size) + ends
