"""Bounds of different kinds, as in x.clamp(0, 5.5), which torch's ONNX exporter does not take.

Its promotion of types makes a tensor of the integer and leaves the other a number, and no operator has one of each.
While a network is exported, both bounds are floats, which is what torch computes with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CLAMPS = frozenset(
    getattr(owner, name) for owner in (torch, torch.Tensor) for name in ("clamp", "clip", "clamp_", "clip_")
) | {torch.ops.aten.clamp.default, torch.ops.aten.clamp_.default, torch.nn.functional.hardtanh}


class one_kind_of_number(TorchFunctionMode):  # noqa: N801 - a context manager, read as a phrase
    """Within the block, clamps get two floats where they are given an integer and a float."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - as torch declares it
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call the function, with its bounds made alike."""
        del types
        given = dict(kwargs or {})
        if func in _CLAMPS and {type(each) for each in (*args[1:], *given.values())} >= {int, float}:
            args = (args[0], *map(_float, args[1:])) if args else args
            given = {name: _float(value) for name, value in given.items()}
        return func(*args, **given)


def _float(bound: Any) -> Any:  # noqa: ANN401 - a number, a tensor or None
    return float(bound) if type(bound) is int else bound
