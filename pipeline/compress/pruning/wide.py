"""Running any code in float64, its casts, divisions of integers and literals included, with constant noise."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WIDER = {
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64),
    torch.complex64: torch.complex128,
}
#: Makers of tensors from numbers of Python, which a graph keeps as tensors of single precision.
_LITERALS = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})
_LIMITS = torch.finfo
#: What stands for noise: the mean of uniform numbers, and of normal ones a number that is not their mean of zero.
_UNIFORM, _NORMAL = 0.5, 0.25


@contextmanager
def double_precision() -> Iterator[None]:
    """Within the block, no operator makes a floating-point tensor narrower than float64, and random ones are constant.

    A dropout that is on is the identity; uniform numbers are their mean, normal ones a quarter above it. Two runs then
    differ by what they compute alone. Random numbers with a generator of their own stay random.

    Limits: random choices of whole numbers (`multinomial`), of Python and of numpy; code that asserts a narrow type.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch("torch.finfo", _single), _Literals(), _Wide():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)


def to_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision; one of integers as it is."""
    return tensor.detach().to(_WIDER.get(tensor.dtype, tensor.dtype))


class _Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Call an operator with wide types in the place of narrow ones."""
        del types
        args, kwargs = tree_map(_wide_type, (args, kwargs or {}))
        if not func._schema.is_mutable and _mixed(args, kwargs):  # noqa: SLF001 - the documented way to a schema
            args, kwargs = tree_map_only(Tensor, to_float64, (args, kwargs))
        constant = _CONSTANT.get(func.overloadpacket)
        if constant is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        return constant(func, args, kwargs)


class _Literals(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Round a literal as the network does, then widen it."""
        del types
        result = func(*args, **(kwargs or {}))
        if func not in _LITERALS or not isinstance(result, Tensor) or not result.dtype.is_floating_point:
            return result
        data = args[1] if func is Tensor.new_tensor and len(args) > 1 else next(iter(args), None)
        exact = (kwargs or {}).get("dtype") is torch.float64 or not isinstance(data, (int, float, list, tuple))
        if exact:
            return result.double()
        rounded = result.detach().cpu().numpy().astype(np.float32).astype(np.float64)  # torch's own cast is widened
        return torch.from_numpy(np.asarray(rounded)).to(result.device)


def _mixed(*arguments: Any) -> bool:  # noqa: ANN401 - any arguments of an operator
    """Say whether floating-point tensors of several types meet, such as with a matrix that is no buffer."""
    types = {leaf.dtype for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)} & {*_WIDER, *_WIDER.values()}
    return len(types) > 1


def _single(dtype: torch.dtype | None = None) -> torch.finfo:
    """Return the limits of single precision for those of double: a network takes its epsilon from them."""
    return _LIMITS(torch.float32 if dtype in {None, torch.float64} else dtype)


def _wide_type(value: Any) -> Any:  # noqa: ANN401 - any argument of an operator
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def _filled(number: float) -> Callable[[Any, Any, Any], Tensor]:
    """Return the call of a maker of random numbers that gives one number."""

    def call(func: Any, args: Any, kwargs: Any) -> Tensor:  # noqa: ANN401 - an operator and its arguments
        made: Tensor = func(*args, **kwargs)
        made.fill_(number)
        return made

    return call


def _uniform(func: Any, args: Any, kwargs: Any) -> Tensor:  # noqa: ANN401
    """Fill with the middle of the range."""
    del func
    tensor, low, high = (*args, *(0.0, 1.0)[len(args) - 1 :])[:3]
    filled: Tensor = tensor.fill_((kwargs.get("from", low) + kwargs.get("to", high)) / 2)
    return filled


def _normal(func: Any, args: Any, kwargs: Any) -> Tensor:  # noqa: ANN401
    """Fill with, or make, mean + std / 4."""
    if func.overloadpacket is torch.ops.aten.normal_:
        tensor, mean, std = (*args, *(0.0, 1.0)[len(args) - 1 :])[:3]
        filled: Tensor = tensor.fill_(kwargs.get("mean", mean) + kwargs.get("std", std) * _NORMAL)
        return filled
    made: Tensor = func(*args, **kwargs)
    mean, std = (*args, *(0.0, 1.0)[len(args) :])[:2]
    constant: Tensor = torch.zeros_like(made) + mean + std * _NORMAL
    return constant


def _bernoulli(func: Any, args: Any, kwargs: Any) -> Tensor:  # noqa: ANN401
    """Fill with, or make, the probabilities."""
    chance = args[1] if len(args) > 1 else kwargs.get("p")
    if func.overloadpacket is torch.ops.aten.bernoulli_:
        chance = 0.5 if chance is None else chance
        filled: Tensor = args[0].copy_(chance) if isinstance(chance, Tensor) else args[0].fill_(chance)
        return filled
    return args[0].clone() if chance is None else torch.full_like(args[0], chance)


def _kept(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Drop nothing."""
    del func, kwargs
    return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)


_ATEN = torch.ops.aten
_CONSTANT: dict[Any, Callable[[Any, Any, Any], Any]] = {
    **dict.fromkeys((_ATEN.rand, _ATEN.rand_like), _filled(_UNIFORM)),
    **dict.fromkeys((_ATEN.randn, _ATEN.randn_like), _filled(_NORMAL)),
    _ATEN.uniform_: _uniform,
    **dict.fromkeys((_ATEN.normal, _ATEN.normal_), _normal),
    **dict.fromkeys((_ATEN.bernoulli, _ATEN.bernoulli_), _bernoulli),
    _ATEN.native_dropout: _kept,
}
