"""ONNX operators as torch functions with gradients: one entry of `OPERATORS` each.

A function takes the node's attributes and its inputs, None where an optional one is left out. Inputs that say how
(shapes, axes, bounds) come as tuples of Python numbers. Tensors have NCHW layout, as in ONNX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.compress.quantization.torch_graph.operators_layout import (
    depth_to_space,
    flatten,
    gather,
    pad,
    reshape,
    slice_,
    space_to_depth,
    split,
    squeeze,
    unsqueeze,
)
from pipeline.compress.quantization.torch_graph.operators_resize import resize
from pipeline.compress.quantization.torch_graph.operators_windows import (
    average_pool,
    convolution,
    global_average,
    max_pool,
    transposed_convolution,
)
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: ONNX's numbers of element types that a Cast may name.
_ELEMENT_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}


def cast(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Cast to another type. Raises InputError for one that is not in `_ELEMENT_TYPES`."""
    wanted = _ELEMENT_TYPES.get(attributes["to"])
    if wanted is None:
        names = ", ".join(str(kind).removeprefix("torch.") for kind in _ELEMENT_TYPES.values())
        raise InputError(f"Cast to element type {attributes['to']} has no counterpart in torch here; known are {names}")
    return x.to(wanted)


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
    """LayerNormalization over the last dimensions; scale and bias broadcast."""
    shape = x.shape[attributes.get("axis", -1) % x.dim() :]
    epsilon = attributes.get("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    plain = functional.layer_norm(x, shape, eps=epsilon) * scale
    return plain if bias is None else plain + bias


def group_norm(attributes: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """GroupNormalization with a scale for each channel, or for each group as before opset 21."""
    groups, channels = attributes["num_groups"], x.shape[1]
    if scale.numel() != channels:
        scale, bias = (each.repeat_interleave(channels // groups) for each in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, attributes.get("epsilon", 1e-5))


def instance_norm(attributes: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """InstanceNormalization."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def clip(
    attributes: Mapping[str, Any], x: Tensor, low: Sequence[float] | None = None, high: Sequence[float] | None = None
) -> Tensor:
    """Bound from below, above, or both."""
    lower = low[0] if low else attributes.get("min")
    upper = high[0] if high else attributes.get("max")
    return x if lower is upper is None else torch.clamp(x, lower, upper)


def divide(x: Tensor, y: Tensor) -> Tensor:
    """Div: of integers without the rest."""
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def hard_sigmoid(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """max(0, min(1, alpha x + beta))."""
    return torch.clamp(attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5), 0.0, 1.0)


def selu(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Gamma times Elu."""
    gamma: float = attributes.get("gamma", 1.0507009873554805)
    return gamma * functional.elu(x, attributes.get("alpha", 1.6732632423543772))


def gelu(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Gelu, exact or by tanh."""
    return functional.gelu(x, approximate=attributes.get("approximate", b"none").decode())


def shape(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Shape, or a part of it."""
    return torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")], dtype=torch.long)


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda _, *inputs: function(*inputs)


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an operator that joins any number of inputs two by two."""

    def join(attributes: Mapping[str, Any], first: Tensor, *others: Tensor) -> Tensor:
        del attributes
        for other in others:
            first = function(first, other)
        return first

    return join


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operator that reduces over axes given as an input (newer opsets) or an attribute."""

    def reduce(attributes: Mapping[str, Any], x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        dims = axes if axes is not None else attributes.get("axes")
        if not dims and attributes.get("noop_with_empty_axes", 0):
            return x
        chosen = tuple(dims) if dims else tuple(range(x.dim()))
        return function(x, chosen, bool(attributes.get("keepdims", 1)))

    return reduce


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Clip": clip,
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Cos": _plain(torch.cos),
    "DepthToSpace": depth_to_space,
    "Div": _plain(divide),
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": lambda _, x, sizes: x * torch.ones(tuple(sizes or ()), dtype=x.dtype, device=x.device),
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": lambda _, x: x.amax(dim=tuple(range(2, x.dim())), keepdim=True),
    "GroupNormalization": group_norm,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda x: x),
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
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
    "ReduceL2": _reduction(lambda x, dims, keep: torch.linalg.vector_norm(x, 2, dims, keep)),
    "ReduceSumSquare": _reduction(lambda x, dims, keep: x.square().sum(dims, keep)),
    "Relu": _plain(torch.relu),
    "Reshape": reshape,
    "Resize": resize,
    "Selu": selu,
    "Shape": shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Sin": _plain(torch.sin),
    "Slice": slice_,
    "Softmax": lambda attributes, x: x.softmax(attributes.get("axis", -1)),
    "Softplus": _plain(functional.softplus),
    "SpaceToDepth": space_to_depth,
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
#: Places of the inputs that say how: numbers for the function instead of a tensor.
NUMBERS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Expand": (1,),
    "Pad": (1, 2, 3),
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
