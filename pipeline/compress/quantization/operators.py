"""ONNX operators as torch functions with gradients: one entry of `OPERATORS` each.

A function takes the node's attributes and its inputs, None where an optional one is left out. Inputs that say how
(shapes, axes, starts) come as tuples of Python numbers. Tensors have NCHW layout, as in ONNX.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FLOAT, INT64, BOOL = 1, 7, 9
#: ONNX's numbers of element types that a Cast may name.
ELEMENT_TYPES = {FLOAT: torch.float32, 6: torch.int32, INT64: torch.int64, BOOL: torch.bool, 10: torch.float16}
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
AVERAGES = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
EVERYTHING = 2**62


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the spatial dimensions by ONNX's pads: all begins, then all ends."""
    half = len(pads) // 2
    pairs = [pads[axis + half * end] for axis in reversed(range(half)) for end in (0, 1)]
    return functional.pad(x, pairs, value=value) if any(pairs) else x


def _window(attributes: Mapping[str, Any], x: Tensor, size: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and pads of a sliding window over `x`."""
    spatial = len(size)
    strides = list(attributes.get("strides", [1] * spatial))
    dilations = list(attributes.get("dilations", [1] * spatial))
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode in {"NOTSET", "VALID"}:
        return (
            strides,
            dilations,
            list(attributes.get("pads", [0] * 2 * spatial)) if mode == "NOTSET" else [0] * 2 * spatial,
        )
    begins, ends = [], []
    for axis in range(spatial):
        length = x.shape[2 + axis]
        reach = (size[axis] - 1) * dilations[axis] + 1
        total = max((math.ceil(length / strides[axis]) - 1) * strides[axis] + reach - length, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return strides, dilations, begins + ends


def convolution(attributes: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv; padding that is equal on both sides is the convolution's own."""
    spatial = weight.dim() - 2
    strides, dilations, pads = _window(attributes, x, weight.shape[2:])
    groups = attributes.get("group", 1)
    if pads[:spatial] == pads[spatial:]:
        return CONVOLUTIONS[spatial](x, weight, bias, strides, pads[:spatial], dilations, groups)
    return CONVOLUTIONS[spatial](_padded(x, pads), weight, bias, strides, 0, dilations, groups)


def transposed_convolution(
    attributes: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """ConvTranspose with equal pads on both sides, or uneven ones cut off."""
    spatial = weight.dim() - 2
    strides, dilations, pads = _window(attributes, x, weight.shape[2:])
    extra = attributes.get("output_padding", [0] * spatial)
    groups = attributes.get("group", 1)
    full = TRANSPOSED[spatial](x, weight, bias, strides, 0, extra, groups, dilations)
    for axis in range(spatial):
        full = full.narrow(2 + axis, pads[axis], full.shape[2 + axis] - pads[axis] - pads[axis + spatial])
    return full


def gemm(attributes: Mapping[str, Any], a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Return alpha A B + beta C, either matrix transposed as asked."""
    product = (a.t() if attributes.get("transA") else a) @ (b.t() if attributes.get("transB") else b)
    product = product * attributes["alpha"] if attributes.get("alpha", 1.0) != 1.0 else product
    if c is None:
        return product
    return product + (c * attributes["beta"] if attributes.get("beta", 1.0) != 1.0 else c)


def batch_norm(
    attributes: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    """BatchNormalization with the stored statistics."""
    return functional.batch_norm(x, mean, var, scale, bias, eps=attributes.get("epsilon", 1e-5))


def layer_norm(attributes: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """LayerNormalization over the last dimensions."""
    axis = attributes.get("axis", -1) % x.dim()
    return functional.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def max_pool(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """MaxPool; the padding never wins."""
    size = attributes["kernel_shape"]
    strides, dilations, pads = _window(attributes, x, size)
    spatial, ceil = len(size), bool(attributes.get("ceil_mode", 0))
    if pads[:spatial] == pads[spatial:] and all(2 * pad <= one for pad, one in zip(pads, size, strict=False)):
        return MAXIMA[spatial](x, size, strides, pads[:spatial], dilations, ceil)
    return MAXIMA[spatial](_padded(x, pads, -math.inf), size, strides, 0, dilations, ceil)


def average_pool(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """AveragePool; by default what is padded does not count."""
    size = attributes["kernel_shape"]
    strides, _, pads = _window(attributes, x, size)
    spatial, ceil, counted = (
        len(size),
        bool(attributes.get("ceil_mode", 0)),
        bool(attributes.get("count_include_pad", 0)),
    )
    if pads[:spatial] == pads[spatial:]:
        return AVERAGES[spatial](x, size, strides, pads[:spatial], ceil, counted)
    total = AVERAGES[spatial](_padded(x, pads), size, strides, 0, ceil)
    share = 1.0 if counted else AVERAGES[spatial](_padded(torch.ones_like(x), pads), size, strides, 0, ceil)
    return total / share


def global_average(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Mean over all spatial dimensions, which stay with length 1."""
    del attributes
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operator that reduces over axes given as an input (newer opsets) or an attribute."""

    def reduce(attributes: Mapping[str, Any], x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        dims = axes if axes is not None else attributes.get("axes")
        if not dims and attributes.get("noop_with_empty_axes", 0):
            return x
        chosen = tuple(dims) if dims else tuple(range(x.dim()))
        return function(x, chosen, bool(attributes.get("keepdims", 1)))

    return reduce


def reshape(attributes: Mapping[str, Any], x: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshape; 0 keeps the dimension at its place."""
    sizes = [x.shape[i] if size == 0 and not attributes.get("allowzero") else size for i, size in enumerate(shape)]
    return x.reshape(sizes)


def flatten(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Join the dimensions before and from `axis`."""
    axis = attributes.get("axis", 1)
    return x.flatten(1) if axis == 1 else x.reshape(math.prod(x.shape[:axis]), -1)


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
        step = steps[place] if steps else 1
        stop = None if abs(end) >= EVERYTHING else end
        positions = range(x.shape[axis])[slice(start, stop, step)]
        if step > 0:
            x = (
                x.narrow(axis, positions.start, len(positions))
                if step == 1
                else x.index_select(axis, _index(positions, x))
            )
        else:
            x = x.index_select(axis, _index(positions, x))
    return x


def _index(positions: range, x: Tensor) -> Tensor:
    return torch.tensor(list(positions), device=x.device)


def split(attributes: Mapping[str, Any], x: Tensor, sizes: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Split into parts of the given sizes, or into equal ones."""
    axis = attributes.get("axis", 0)
    length = x.shape[axis]
    each = math.ceil(length / attributes["num_outputs"]) if sizes is None else 0
    lengths = sizes or [min(each, length - start) for start in range(0, length, each)]
    return torch.split_with_sizes(x, list(lengths), axis)


def gather(attributes: Mapping[str, Any], x: Tensor, indices: Any) -> Tensor:  # noqa: ANN401 - numbers or a tensor
    """Pick entries along an axis; the indices' shape takes its place."""
    axis = attributes.get("axis", 0) % x.dim()
    index = indices if isinstance(indices, Tensor) else torch.tensor(indices, device=x.device)
    flat = index.reshape(-1) % x.shape[axis]
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def pad(
    attributes: Mapping[str, Any],
    x: Tensor,
    pads: Sequence[int],
    value: Tensor | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Pad with a constant, or by reflection or repetition of the edge."""
    half = len(pads) // 2
    chosen = [axis % x.dim() for axis in axes] if axes else list(range(half))
    begins, ends = dict(zip(chosen, pads[:half], strict=True)), dict(zip(chosen, pads[half:], strict=True))
    pairs = [side.get(axis, 0) for axis in reversed(range(x.dim())) for side in (begins, ends)]
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}[attributes.get("mode", b"constant")]
    if mode == "constant":
        return functional.pad(x, pairs, value=float(value) if value is not None else 0.0)
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:  # noqa: PLR2004 - torch wants the spatial dimensions alone
        pairs = pairs[:-2]
    return functional.pad(x, pairs, mode=mode)


def resize(
    attributes: Mapping[str, Any],
    x: Tensor,
    region: Any = None,  # noqa: ANN401
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Resize the spatial dimensions: nearest, or linear with half or aligned pixels."""
    del region
    target = list(sizes[2:]) if sizes else [int(n * s) for n, s in zip(x.shape[2:], (scales or ())[2:], strict=True)]
    if attributes.get("mode", b"nearest") == b"nearest":
        return functional.interpolate(x, target, mode="nearest")
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(target)]
    aligned = attributes.get("coordinate_transformation_mode", b"half_pixel") == b"align_corners"
    return functional.interpolate(x, target, mode=mode, align_corners=aligned)


def clip(attributes: Mapping[str, Any], x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bound from below, above, or both."""
    lower = attributes.get("min") if low is None else float(low)
    upper = attributes.get("max") if high is None else float(high)
    return torch.clamp(x, lower, upper)


def hard_sigmoid(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """max(0, min(1, alpha x + beta))."""
    return torch.clamp(attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5), 0.0, 1.0)


def gelu(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Gelu, exact or by tanh."""
    return functional.gelu(x, approximate=attributes.get("approximate", b"none").decode())


def softmax(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Softmax over one axis."""
    return x.softmax(attributes.get("axis", -1))


def group_norm(attributes: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """GroupNormalization with a scale for each channel."""
    return functional.group_norm(x, attributes["num_groups"], scale, bias, attributes.get("epsilon", 1e-5))


def instance_norm(attributes: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """InstanceNormalization."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operator without attributes."""
    return lambda _, *inputs: function(*inputs)


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an operator that joins any number of inputs two by two."""

    def join(attributes: Mapping[str, Any], first: Tensor, *others: Tensor) -> Tensor:
        del attributes
        for other in others:
            first = function(first, other)
        return first

    return join


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Cast": lambda attributes, x: x.to(ELEMENT_TYPES[attributes["to"]]),
    "Clip": clip,
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Cos": _plain(torch.cos),
    "Div": _plain(torch.div),
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": lambda _, x, shape: x * torch.ones(tuple(shape), dtype=x.dtype, device=x.device),
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": lambda _, x: x.amax(dim=tuple(range(2, x.dim())), keepdim=True),
    "GroupNormalization": group_norm,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda x: x),
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Log": _plain(torch.log),
    "LogSoftmax": lambda attributes, x: x.log_softmax(attributes.get("axis", -1)),
    "MatMul": _plain(torch.matmul),
    "Max": _all(torch.maximum),
    "MaxPool": max_pool,
    "Mean": lambda _, *inputs: sum(inputs[1:], inputs[0]) / len(inputs),
    "Min": _all(torch.minimum),
    "Mish": _plain(functional.mish),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _plain(lambda x, slope: torch.where(x >= 0, x, x * slope)),
    "Pad": pad,
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduction(lambda x, dims, keep: x.amax(dims, keep)),
    "ReduceMean": _reduction(lambda x, dims, keep: x.mean(dims, keep)),
    "ReduceMin": _reduction(lambda x, dims, keep: x.amin(dims, keep)),
    "ReduceSum": _reduction(lambda x, dims, keep: x.sum(dims, keep)),
    "ReduceL2": _reduction(lambda x, dims, keep: x.square().sum(dims, keep).sqrt()),
    "ReduceSumSquare": _reduction(lambda x, dims, keep: x.square().sum(dims, keep)),
    "Relu": _plain(torch.relu),
    "Reshape": reshape,
    "Resize": resize,
    "Selu": _plain(functional.selu),
    "Shape": lambda attributes, x: torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")]),
    "Sigmoid": _plain(torch.sigmoid),
    "Sin": _plain(torch.sin),
    "Slice": slice_,
    "Softmax": softmax,
    "Softplus": _plain(functional.softplus),
    "Split": split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": squeeze,
    "Sub": _plain(torch.sub),
    "Sum": _all(torch.add),
    "Swish": lambda attributes, x: x * torch.sigmoid(attributes.get("alpha", 1.0) * x),
    "Tanh": _plain(torch.tanh),
    "Tile": lambda _, x, repeats: x.repeat(tuple(repeats)),
    "Transpose": lambda attributes, x: x.permute(attributes.get("perm", tuple(reversed(range(x.dim()))))),
    "Unsqueeze": unsqueeze,
    "Where": _plain(torch.where),
}
#: Places of the inputs that say how, and so must be constants: numbers for the function instead of a tensor.
NUMBERS: dict[str, tuple[int, ...]] = {
    "Expand": (1,),
    "Pad": (1, 3),
    "ReduceL2": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
}
