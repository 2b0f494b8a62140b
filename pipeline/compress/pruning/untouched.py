"""Running a network's code without a trace: what its forward sets in itself is put back afterwards.

`torch.export` runs forward with tensors that hold no data. Whatever forward keeps of them (a grid by shape, a counter,
a table in a cache) would make the network useless for real data.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict, deque
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from inspect import unwrap
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DICTIONARIES = frozenset({dict, OrderedDict, defaultdict})
_CONTAINERS = frozenset({list, set, deque}) | _DICTIONARIES
_OPAQUE = (type, ModuleType, BuiltinFunctionType, torch.Generator, torch.dtype, torch.device)
_HOLLOW = (FakeTensor, torch.SymInt, torch.SymFloat, torch.SymBool)


@contextmanager
def restored_afterwards(model: nn.Module) -> Iterator[None]:
    """Within the block the network's code may change the network; afterwards all is as before.

    Put back are attributes, buffers, modes and hooks of all modules, the contents of containers and objects that they
    hold, and the values of tensors that are no parameters. Of the classes and files that define the modules, and of
    cached functions there, only what would hold tensors without data.

    Limits: parameters that forward writes to, and files or objects that the network does not hold.
    """
    before = _State(model)
    try:
        yield
    finally:
        before.restore()


class _State:
    """What a network holds, by the objects that it holds it in."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[int, Any] = {}
        self._contents: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[Tensor, int, Tensor]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._visit(model)
        self._shared = [(space, dict(space)) for space in _namespaces(model)]
        self._tables = [
            (value, _copied(value))
            for space, _ in self._shared
            for value in list(space.values())
            if type(value) in _CONTAINERS
        ]
        cached = {
            id(each): each
            for space, _ in self._shared
            for each in space.values()
            if isinstance(each, _lru_cache_wrapper)
        }
        self._caches = [(each, each.cache_info().currsize) for each in cached.values()]

    def _visit(self, root: Any) -> None:  # noqa: ANN401 - anything that a network can hold
        waiting = [root]
        while waiting:
            each = waiting.pop()
            if id(each) in self._seen or isinstance(each, _OPAQUE):
                continue
            self._seen[id(each)] = each
            waiting += self._noted(each)

    def _noted(self, each: Any) -> list[Any]:  # noqa: ANN401
        """Note what an object holds, and return it."""
        kind = type(each)
        if isinstance(each, Tensor):
            if not isinstance(each, nn.Parameter) and each.layout is torch.strided and not each.is_inference():
                self._tensors.append((each, each._version, each.detach().clone()))  # noqa: SLF001 - the only counter
            return []
        if kind in _CONTAINERS:
            self._contents.append((each, _copied(each)))
            return [*each.values()] if kind in _DICTIONARIES else [*each]
        if isinstance(each, (tuple, frozenset)):
            return [*each]
        if isinstance(each, MethodType):
            return [each.__self__, each.__func__]
        if isinstance(each, FunctionType):
            cells = [cell for cell in each.__closure__ or () if _filled(cell)]
            self._cells += [(cell, cell.cell_contents) for cell in cells]
            return [cell.cell_contents for cell in cells]
        space = getattr(each, "__dict__", None)
        return [space] if type(space) is dict and (isinstance(each, nn.Module) or _of_users(kind)) else []

    def restore(self) -> None:
        """Put back what is not the same object, or another number of writes to a tensor."""
        for holder, content in self._contents:
            _put_back(holder, content)
        for cell, content in self._cells:
            if not _filled(cell) or cell.cell_contents is not content:
                cell.cell_contents = content
        with torch.no_grad():
            for tensor, version, value in self._tensors:
                if tensor._version != version:  # noqa: SLF001
                    tensor.copy_(value)
        self._restore_shared()

    def _restore_shared(self) -> None:
        """Of what others may use too, put back what holds tensors without data, and empty caches that have grown."""
        for holder, content in self._tables:
            if _hollow(holder):
                _put_back(holder, content)
        for space, content in self._shared:
            for name in [name for name, value in space.items() if _hollow(value)]:
                space.reset(name, content)
        for cache, size in self._caches:
            if cache.cache_info().currsize != size:
                cache.cache_clear()


class _Namespace:
    """The names of a class or of a file."""

    def __init__(self, owner: type | dict[str, Any]) -> None:
        self._owner = owner

    def keys(self) -> list[str]:
        return [*(vars(self._owner) if isinstance(self._owner, type) else self._owner)]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return vars(self._owner)[name] if isinstance(self._owner, type) else self._owner[name]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, self[name]) for name in self.keys()]

    def values(self) -> list[Any]:
        return [self[name] for name in self.keys()]

    def reset(self, name: str, before: Mapping[str, Any]) -> None:
        """Give a name the value that it had, or none."""
        if isinstance(self._owner, dict):
            self._owner.pop(name)
            self._owner |= {name: before[name]} if name in before else {}
        elif name in before:
            setattr(self._owner, name, before[name])
        else:
            delattr(self._owner, name)


def _namespaces(model: nn.Module) -> list[_Namespace]:
    """Return the classes of a network's modules and the files that define them, those of torch left out."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    own = sorted(filter(_of_users, kinds), key=lambda kind: (kind.__module__, kind.__qualname__))
    files: dict[int, Any] = {}
    for kind in own:
        for member in vars(kind).values():
            if isinstance(function := unwrap(member) if callable(member) else member, FunctionType):
                space = function.__globals__
                if not str(space.get("__name__")).startswith("torch."):
                    files[id(space)] = space
    return [*map(_Namespace, own), *map(_Namespace, files.values())]


def _of_users(kind: type) -> bool:
    """Say whether a class is neither of Python nor of torch or numpy."""
    package = kind.__module__.partition(".")[0]
    return kind is SimpleNamespace or package not in {"torch", "numpy", *sys.stdlib_module_names}


def _copied(holder: Any) -> Any:  # noqa: ANN401 - a container
    return dict(holder) if type(holder) in _DICTIONARIES else list(holder)


def _put_back(holder: Any, content: Any) -> None:  # noqa: ANN401 - a container and what it held
    if type(holder) in _DICTIONARIES:
        same = list(holder) == list(content) and all(holder[key] is value for key, value in content.items())
    else:
        now = list(holder)
        same = len(now) == len(content) and all(a is b for a, b in zip(now, content, strict=True))
    if not same:
        holder.clear()
        (holder.extend if isinstance(holder, (list, deque)) else holder.update)(content)


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a variable without a value yet
        return False


def _hollow(value: Any, depth: int = 4) -> bool:  # noqa: ANN401
    """Say whether a value is, or holds, a tensor or a size without a number."""
    if isinstance(value, _HOLLOW):
        return True
    if depth == 0:
        return False
    if type(value) in _DICTIONARIES:
        return any(_hollow(each, depth - 1) for pair in list(value.items()) for each in pair)
    return isinstance(value, (list, tuple, set, deque)) and any(_hollow(each, depth - 1) for each in list(value))
