"""What a network changes of itself while it is evaluated: a buffer, a tensor or a counter, and the line that does it.

Such a network gives other outputs for the same images each time, without any random number.
"""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.compress.state.outside import attributes, place_words, same_bits
from pipeline.compress.state.reproduction import left_unchanged, run_with
from pipeline.core.user_code import line_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.compress.state.reproduction import Example

#: State that a message names.
NAMED = 3
ADVICE = (
    "Expected a network that evaluation does not change: change state only in training (`if self.training`), or take "
    "it as an input and return it"
)


def kept_state(model: nn.Module, example: Example) -> str:
    """Name what a forward in evaluation changes, with the line where that is known; empty where it changes nothing.

    The network is left as it was. Limits: what lies outside the network (a global, a file) is not seen, and containers
    that are changed in place have no line.
    """
    with left_unchanged(model):
        run_with(model, example)  # what is made at the first call is no change
        before = _snapshot(model)
        with _Writes(model) as writes, _assignments(model, writes.lines):
            run_with(model, example)
        after = _snapshot(model)
    changed = [name for name, value in after.items() if name not in before or not _same(before[name], value)]
    listed = [name + (f" at {writes.lines[name]}" if name in writes.lines else "") for name in changed[:NAMED]]
    return ", ".join(listed) + (", ..." if len(changed) > NAMED else "")


def _snapshot(model: nn.Module) -> dict[str, object]:
    """Return copies of everything that a network holds, by its name for a person."""
    found: dict[str, object] = {name: tensor.detach().clone() for name, tensor in _stored(model).items()}
    for place, value in attributes(model):
        found[place_words(place)] = value.copy() if isinstance(value, np.ndarray) else _own(value)
    return found


def _own(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, those that are not persistent as well, by their names for a person."""
    parameters = {f"parameter {name}": tensor for name, tensor in model.named_parameters()}
    return parameters | {f"buffer {name}": tensor for name, tensor in model.named_buffers()}


def _same(first: object, second: object) -> bool:
    if isinstance(first, (Tensor, np.ndarray)) or isinstance(second, (Tensor, np.ndarray)):
        return same_bits(first, second)
    return first == second


class _Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps, by the name of a tensor of the network, the last line that wrote into it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: dict[str, str] = {}
        tensors = _stored(model) | {
            place_words(place): each for place, each in attributes(model) if isinstance(each, Tensor)
        }
        self._names: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            self._names.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - as torch declares it
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        # Compared, for batch norms write their statistics without saying so.
        own = [
            leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and _address(leaf) in self._names
        ]
        before = [leaf.detach().clone() for leaf in own]
        result = func(*args, **(kwargs or {}))
        for leaf in (leaf for leaf, old in zip(own, before, strict=True) if not same_bits(leaf, old)):
            if line := line_of(traceback.extract_stack()):
                self.lines.update(dict.fromkeys(self._names[_address(leaf)], line))
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


@contextmanager
def _assignments(model: nn.Module, lines: dict[str, str]) -> Iterator[None]:
    """Within the block, keep the line of each assignment to an attribute of a layer, by its name for a person."""
    names = {id(module): name for name, module in model.named_modules()}
    original = nn.Module.__setattr__

    def assign(module: nn.Module, attribute: str, value: Any) -> None:  # noqa: ANN401
        if id(module) in names and (line := line_of(traceback.extract_stack())):
            holder = names[id(module)]
            lines[place_words((holder, attribute))] = lines[f"buffer {f'{holder}.' if holder else ''}{attribute}"] = (
                line
            )
        original(module, attribute, value)

    nn.Module.__setattr__ = assign  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]
