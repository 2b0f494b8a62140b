"""What a network may write that torch's export or its ONNX exporter does not take, made fit while it is exported.

Bounds of different kinds, as in `x.clamp(0, 5.5)`: the exporter's promotion of types makes a tensor of the integer and
leaves the other a number, and no operator has one of each. Both become floats, which is what torch computes with.

`tensor.data`, as in networks that compute the weights of evaluation from those of training: what it gives and takes
passes by torch's export, whose translation then reads memory that is not there, and the process ends without a message.
Reading it is `detach()` and assigning to it `copy_()`, which are operations of the graph. The network is not written
to: stand-ins without data take its parameters' place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CLAMPS = frozenset(
    getattr(owner, name) for owner in (torch, torch.Tensor) for name in ("clamp", "clip", "clamp_", "clip_")
) | {torch.ops.aten.clamp.default, torch.ops.aten.clamp_.default, torch.nn.functional.hardtanh}
_READ, _ASSIGN = torch.Tensor.data.__get__, torch.Tensor.data.__set__  # type: ignore[attr-defined]


class fit_for_export(TorchFunctionMode):  # noqa: N801 - a context manager, read as a phrase
    """Within the block, clamps get bounds of one kind and `.data` is part of the graph.

    Assigning another shape to `.data` raises RuntimeError.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - as torch declares it
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call the function, or what stands for it."""
        del types
        given = dict(kwargs or {})
        if func in _CLAMPS and {type(each) for each in (*args[1:], *given.values())} >= {int, float}:
            args = (args[0], *map(_float, args[1:])) if args else args
            given = {name: _float(value) for name, value in given.items()}
        traced = isinstance(args[0], (FakeTensor, FunctionalTensor)) if args else False
        if traced and func == _READ:
            return args[0].detach()
        if traced and func == _ASSIGN:
            with torch.no_grad():
                args[0].copy_(args[1])
            return None
        return func(*args, **given)


def _float(bound: Any) -> Any:  # noqa: ANN401 - a number, a tensor or None
    return float(bound) if type(bound) is int else bound
