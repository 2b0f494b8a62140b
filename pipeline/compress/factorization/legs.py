"""The layers that stand in a layer's place, and what they cost: an nn.Sequential of plain ones, without norms between.

| kind    | layer                     | legs                                                                  |
|---------|---------------------------|-----------------------------------------------------------------------|
| svd     | linear, 1x1 convolution   | P→r, r→N; stride and padding with the first                           |
| svd     | LSTM, GRU, RNN            | linear I→r, the same layer on r inputs: its first input matrix alone  |
| spatial | KhxKw convolution         | Khx1 C→r with the vertical stride and padding, 1xKw r→N with the rest |
| channel | convolution               | KxK C→r with stride, padding and dilation, 1x1 r→N                    |
| tucker  | convolution               | 1x1 C→r, KxK r→s with stride, padding and dilation, 1x1 s→N           |

The last leg has the layer's bias, the others none, so that their product is one layer again (`merging.py`).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pipeline.compress.factorization.names import FactorKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
#: Where layers are made before their values come: no random numbers are drawn, no memory is taken.
META = "meta"
#: Axes of a KhxKw kernel.
_PLANE = 2


@dataclass(frozen=True)
class Factor:
    """How one layer is factorised; `ranks` are two of a Tucker decomposition (after its first and second leg)."""

    kind: FactorKind
    ranks: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON: {"kind": "spatial", "ranks": [8]}."""
        return {"kind": self.kind, "ranks": list(self.ranks)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Factor:
        """Read what `as_json` returned. Raises ValueError where it is something else."""
        kind, ranks = data["kind"], tuple(map(int, data["ranks"]))
        if kind not in get_args(FactorKind) or len(ranks) != (2 if kind == "tucker" else 1) or min(ranks) < 1:
            raise ValueError(f"no factorisation {dict(data)}")
        return cls(kind, ranks)


def possible_kinds(layer: nn.Module) -> tuple[FactorKind, ...]:
    """Return the kinds that fit a layer; none for one of another class, or a convolution in groups."""
    if type(layer) in (nn.Linear, *RECURRENT):
        return ("svd",)
    if not isinstance(layer, CONVOLUTIONS) or type(layer) not in CONVOLUTIONS or layer.groups > 1:
        return ()
    larger = [size for size in layer.kernel_size if size > 1]
    if not larger:
        return ("svd",)
    plane = isinstance(layer, nn.Conv2d) and len(larger) == _PLANE
    return ("spatial", "channel", "tucker") if plane else ("channel", "tucker")


def layer_matrix(layer: nn.Module) -> Tensor:
    """Return the weight that is factorised: [N, P], of a convolution [N, C, K..]; of a recurrent layer [gates·H, I].

    The directions of a bidirectional layer lie below each other: they read the same inputs.
    """
    if isinstance(layer, nn.RNNBase):
        return torch.cat([getattr(layer, name) for name in input_names(layer)]).detach()
    return cast("Tensor", layer.weight).detach()


def input_names(layer: nn.RNNBase) -> tuple[str, ...]:
    """Return the names of the matrices that a recurrent layer multiplies its inputs with."""
    return ("weight_ih_l0", "weight_ih_l0_reverse") if layer.bidirectional else ("weight_ih_l0",)


def build_legs(layer: nn.Module, factor: Factor) -> nn.Sequential:
    """Return the legs of a layer, with zeros where weights will be and the layer's own bias; the layer stays as it is.

    Raises ValueError where this kind does not fit the layer.
    """
    if factor.kind not in possible_kinds(layer):
        raise ValueError(f"{factor.kind} does not fit {type(layer).__name__}")
    if isinstance(layer, nn.RNNBase):
        legs = _recurrent_legs(layer, *factor.ranks)
    elif isinstance(layer, nn.Linear):
        (rank,) = factor.ranks
        first = nn.Linear(layer.in_features, rank, bias=False, device=META)
        legs = [first, nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device=META)]
    else:
        conv = cast("nn.Conv2d", layer)
        widths = (conv.in_channels, *factor.ranks, conv.out_channels)
        axes = _axes(factor.kind, len(conv.kernel_size))
        legs = [
            _convolution(conv, sizes, own, bias=number == len(axes) and conv.bias is not None)
            for number, (sizes, own) in enumerate(zip(pairwise(widths), axes, strict=True), 1)
        ]
    _like(layer, legs)
    return nn.Sequential(*legs).train(layer.training)


def set_weights(legs: nn.Sequential, weights: Sequence[Tensor]) -> None:
    """Copy the factors, float64, into the legs' weights; of a recurrent layer into its input matrices."""
    with torch.no_grad():
        for leg, weight in zip(legs, weights, strict=True):
            if isinstance(leg, nn.RNNBase):
                for name, part in zip(input_names(leg), weight.chunk(len(input_names(leg))), strict=True):
                    getattr(leg, name).copy_(part)
            else:
                cast("Tensor", leg.weight).copy_(weight)


def _recurrent_legs(layer: nn.RNNBase, rank: int) -> list[nn.Module]:
    inner = deepcopy(layer)
    inner.input_size = rank
    for name in input_names(layer):
        old = getattr(layer, name)
        setattr(inner, name, nn.Parameter(old.new_zeros(len(old), rank), old.requires_grad))
    inner.flatten_parameters()
    return [nn.Linear(layer.input_size, rank, bias=False, device=META), inner]


def _axes(kind: FactorKind, count: int) -> tuple[tuple[int, ...], ...]:
    """Return for each leg the axes of the kernel that it has."""
    every = tuple(range(count))
    legs = {"spatial": ((0,), (1,)), "tucker": ((), every, ())}
    return legs.get(kind, (every, ()))


def _convolution(layer: nn.Conv2d, widths: Sequence[int], axes: Sequence[int], *, bias: bool) -> nn.Module:
    """Return a convolution with the kernel, stride, padding and dilation of `layer` along these axes alone."""

    def own(sizes: Sequence[int], other: int) -> tuple[int, ...]:
        return tuple(size if axis in axes else other for axis, size in enumerate(sizes))

    named = isinstance(layer.padding, str)
    make: Any = type(layer)
    made: nn.Module = make(
        *widths,
        own(layer.kernel_size, 1),
        stride=own(layer.stride, 1),
        padding=(layer.padding if axes else 0) if named else own(cast("tuple[int, ...]", layer.padding), 0),
        dilation=own(layer.dilation, 1),
        bias=bias,
        padding_mode=layer.padding_mode if axes else "zeros",
        device=META,
    )
    return made


def _like(layer: nn.Module, legs: Sequence[nn.Module]) -> None:
    """Give the legs zeros, the layer's bias, and its type, device and `requires_grad`."""
    weight = next(layer.parameters())
    with torch.no_grad():
        for leg in legs if not isinstance(layer, nn.RNNBase) else legs[:1]:
            leg.to_empty(device=weight.device).to(weight.dtype).requires_grad_(weight.requires_grad)
            for tensor in leg.parameters():
                tensor.zero_()
        bias = layer.bias if isinstance(layer, (nn.Linear, _ConvNd)) else None
        if bias is not None:
            last = cast("Tensor", legs[-1].bias)
            last.copy_(bias)
            last.requires_grad_(bias.requires_grad)


@dataclass(frozen=True)
class LegCost:
    """What a leg from one input channel to one output channel costs: parameters, and operations of one sample."""

    macs: int
    parameters: int


def layer_cost(layer: nn.Module, sizes: Sequence[tuple[int, ...]]) -> LegCost:
    """Return the cost for one pair of channels of the layer itself: times C·N it is that of all its weights.

    `sizes` has for each call of the layer what one sample brings: the image's sizes, or the number of rows.
    """
    return _pair_cost(layer if isinstance(layer, _ConvNd) else None, sizes)[0]


def leg_costs(layer: nn.Module, kind: FactorKind, sizes: Sequence[tuple[int, ...]]) -> tuple[LegCost, ...]:
    """Return the same for each leg of a kind."""
    if not isinstance(layer, _ConvNd):
        return (layer_cost(layer, sizes),) * 2
    found = []
    for axes in _axes(kind, len(layer.kernel_size)):
        cost, sizes = _pair_cost(
            cast("_ConvNd", _convolution(cast("nn.Conv2d", layer), (1, 1), axes, bias=False)), sizes
        )
        found.append(cost)
    return tuple(found)


def _pair_cost(conv: _ConvNd | None, sizes: Sequence[tuple[int, ...]]) -> tuple[LegCost, list[tuple[int, ...]]]:
    """Return the cost, and the sizes of what comes out."""
    if conv is None:
        return LegCost(sum(map(prod, sizes)), 1), [*sizes]
    after = [tuple(_after(conv, size)) for size in sizes]
    kernel = prod(conv.kernel_size)
    return LegCost(kernel * sum(map(prod, after)), kernel), after


def _after(conv: _ConvNd, size: Sequence[int]) -> Iterator[int]:
    for axis, (before, after) in enumerate(padding_of(conv)):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        yield (size[axis] + before + after - reach - 1) // conv.stride[axis] + 1


def padding_of(conv: _ConvNd) -> tuple[tuple[int, int], ...]:
    """Return how many values a convolution adds before and behind each axis."""
    if conv.padding == "same":
        totals = [step * (size - 1) for step, size in zip(conv.dilation, conv.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if conv.padding == "valid":
        return tuple((0, 0) for _ in conv.kernel_size)
    return tuple((size, size) for size in cast("tuple[int, ...]", conv.padding))
