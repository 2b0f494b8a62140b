"""Legs as one layer again, where their ranks are so high that they cost more than it does."""

from __future__ import annotations

from copy import deepcopy
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pipeline.compress.factorization.legs import CONVOLUTIONS, META, RECURRENT, input_names, layer_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.nn.modules.conv import _ConvNd


def merge_back(legs: nn.Sequential) -> nn.Module:
    """Return the one layer that computes what `legs` do: their product, with the last one's bias.

    The product is taken in float64. Raises ValueError where they are no such product: another layer between, a bias
    before the last leg, groups, or two legs that both have a kernel, stride, padding or dilation along one axis.
    """
    merged = merged_layer(legs)
    weights = [layer_matrix(leg).double() for leg in legs]
    product = reduce(_product, weights)
    with torch.no_grad():
        if isinstance(merged, nn.RNNBase):
            for name, part in zip(input_names(merged), product.chunk(len(input_names(merged))), strict=True):
                getattr(merged, name).copy_(part)
        else:
            cast("Tensor", merged.weight).copy_(product)
            if merged.bias is not None:
                cast("Tensor", merged.bias).copy_(cast("Tensor", legs[-1].bias))
    return merged


def merged_layer(legs: nn.Sequential) -> nn.Module:
    """Return the layer that `merge_back` returns, with zeros in its weight and bias. Raises ValueError as it does."""
    kinds = {type(leg) for leg in legs}
    merged: nn.Module
    last = legs[-1] if len(legs) > 1 else None
    if any(getattr(leg, "bias", None) is not None for leg in [*legs][:-1]):
        raise ValueError("a leg before the last has a bias")
    if type(last) in RECURRENT and kinds == {nn.Linear, type(last)}:
        merged = _recurrent(cast("nn.Linear", legs[0]), cast("nn.RNNBase", last))
    elif isinstance(last, nn.Linear) and kinds == {nn.Linear}:
        sizes = cast("nn.Linear", legs[0]).in_features, last.out_features
        merged = nn.Linear(*sizes, bias=last.bias is not None, device=META)
    elif type(last) in CONVOLUTIONS and kinds == {type(last)}:
        merged = _convolution([cast("_ConvNd", leg) for leg in legs])
    else:
        raise ValueError(f"no legs of one layer: {', '.join(sorted(each.__name__ for each in kinds))}")
    return _like(merged, legs)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Return the weight of one layer after another: [r, C, ..] and [N, r, ..] to [N, C, ..], kernels side by side."""
    return torch.einsum("nr...,rc...->nc...", second, first)


def _recurrent(first: nn.Linear, last: nn.RNNBase) -> nn.RNNBase:
    merged = deepcopy(last)
    merged.input_size = first.in_features
    for name in input_names(last):
        old = getattr(last, name)
        setattr(merged, name, nn.Parameter(old.new_zeros(len(old), first.in_features), old.requires_grad))
    merged.flatten_parameters()
    return merged


def _convolution(legs: Sequence[_ConvNd]) -> nn.Module:
    """Return a convolution with the kernel, stride, padding and dilation that the legs have together."""
    if any(leg.groups > 1 for leg in legs) or any(one.out_channels != two.in_channels for one, two in pairwise(legs)):
        raise ValueError("the legs' channels do not follow one another")
    owners = [_owner(legs, axis) for axis in range(len(legs[0].kernel_size))]
    modes = {leg.padding_mode for leg in legs if _pads(leg)}
    named = {leg.padding for leg in legs if isinstance(leg.padding, str)}
    ways = {*modes, *named}
    if len(modes) > 1 or len(named) > 1 or (named and any(_pads(leg) for leg in legs if leg.padding not in named)):
        raise ValueError(f"the legs are padded in several ways: {', '.join(sorted(map(str, ways)))}")
    padding = next(iter(named)) if named else tuple(owner.padding[axis] for axis, owner in enumerate(owners))
    make: Any = type(legs[0])
    merged: nn.Module = make(
        legs[0].in_channels,
        legs[-1].out_channels,
        tuple(owner.kernel_size[axis] for axis, owner in enumerate(owners)),
        stride=tuple(owner.stride[axis] for axis, owner in enumerate(owners)),
        padding=padding,
        dilation=tuple(owner.dilation[axis] for axis, owner in enumerate(owners)),
        bias=legs[-1].bias is not None,
        padding_mode=next(iter(modes), "zeros"),
        device=META,
    )
    return merged


def _owner(legs: Sequence[_ConvNd], axis: int) -> _ConvNd:
    """Return the leg that does anything along an axis but take values as they are; the first where none does."""
    acting = [leg for leg in legs if leg.kernel_size[axis] > 1 or leg.stride[axis] > 1 or _pads_along(leg, axis)]
    if len(acting) > 1:
        raise ValueError(f"{len(acting)} legs act along axis {axis}")
    return acting[0] if acting else legs[0]


def _pads(leg: _ConvNd) -> bool:
    return any(_pads_along(leg, axis) for axis in range(len(leg.kernel_size)))


def _pads_along(leg: _ConvNd, axis: int) -> bool:
    if isinstance(leg.padding, str):
        return leg.padding == "same" and leg.kernel_size[axis] > 1
    return bool(leg.padding[axis])


def _like(merged: nn.Module, legs: nn.Sequential) -> nn.Module:
    """Give a layer zeros, and the type, device, mode and `requires_grad` of the legs."""
    if not isinstance(merged, nn.RNNBase):
        weight = cast("Tensor", legs[0].weight)
        merged.to_empty(device=weight.device).to(weight.dtype).requires_grad_(weight.requires_grad)
        with torch.no_grad():
            for tensor in merged.parameters():
                tensor.zero_()
    return merged.train(legs.training)
