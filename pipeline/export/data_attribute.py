"""`tensor.data` in a forward, as in networks that compute the weights of evaluation from those of training.

What `.data` gives and takes passes by torch's export, whose translation then reads memory that is not there: the
process ends without a message. While a network is exported, reading it is `detach()` and assigning to it `copy_()`,
which are operations of the graph. The network is not written to: stand-ins without data take its parameters' place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_READ, _ASSIGN = torch.Tensor.data.__get__, torch.Tensor.data.__set__  # type: ignore[attr-defined]


class data_as_operations(TorchFunctionMode):  # noqa: N801 - a context manager, read as a phrase
    """Within the block, `.data` is part of the graph. Assigning another shape raises RuntimeError."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - as torch declares it
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call the function, or what stands for it."""
        del types
        traced = isinstance(args[0], (FakeTensor, FunctionalTensor)) if args else False
        if traced and func == _READ:
            return args[0].detach()
        if traced and func == _ASSIGN:
            with torch.no_grad():
                args[0].copy_(args[1])
            return None
        return func(*args, **dict(kwargs or {}))
