"""State that a network has beside its `state_dict`: non-persistent buffers, and tensors that are plain attributes.

Tensors and arrays in lists, tuples, dictionaries, layers that are not registered and objects of the definition's own
classes count too. A place is the qualified name of a layer, the attribute, and what leads on from there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Place = tuple[str | int, ...]
Value = Tensor | np.ndarray[Any, Any]

#: What stands before a place in the names of stored tensors; arrays of numpy are stored as tensors too.
PREFIX = "outside state_dict "
_NUMPY_PREFIX = "outside state_dict, numpy "
#: Attributes that every module has; those of a graph module describe the graph.
OWN = frozenset(vars(nn.Module())) | {"_graph", "_code", "meta", "graph"}
#: Modules of definitions are loaded under names that start like this (see `pipeline.network.definition`).
_DEFINITIONS = "secateur_model_"
SIMPLE = (bool, int, float, complex, str)


def outside_state(model: nn.Module) -> dict[Place, Value]:
    """Return the tensors and arrays outside the state_dict by place, as they are: not copied."""
    return {place: value for place, value in attributes(model) if isinstance(value, (Tensor, np.ndarray))}


def attributes(model: nn.Module) -> Iterator[tuple[Place, object]]:
    """Yield every tensor, array and plain value that a network has beside its state_dict, with its place."""
    registered = dict(model.named_modules())
    seen = {id(module) for module in registered.values()}
    for name, module in registered.items():
        for attribute, value in _own(module):
            yield from _leaves(value, (name, attribute), seen)


def restore_state(model: nn.Module, state: Mapping[Place, Value]) -> None:
    """Put tensors and arrays at their places. Raises LookupError for a place that the network does not have."""
    modules = dict(model.named_modules())
    for (name, *keys), value in state.items():
        _with(modules[str(name)], keys, value)


def copied_state(state: Mapping[Place, Value]) -> dict[Place, Value]:
    """Return the same with tensors and arrays of their own."""
    return {
        place: value.detach().clone() if isinstance(value, Tensor) else value.copy() for place, value in state.items()
    }


def fitting_state(state: Mapping[Place, Value], model: nn.Module) -> dict[Place, Value]:
    """Return what of the state has a place in the network already, with the same shape and type."""
    there = outside_state(model)
    return {
        place: value
        for place, value in state.items()
        if place in there and (value.shape, value.dtype) == (there[place].shape, there[place].dtype)
    }


def differing_state(first: Mapping[Place, Value], second: Mapping[Place, Value]) -> dict[Place, Value]:
    """Return what of `first` is not there with the same bits in `second`."""
    return {place: value for place, value in first.items() if not same_bits(value, second.get(place))}


def same_bits(first: object, second: object) -> bool:
    """Say whether two tensors or arrays have the same type, shape and bits (NaN equals NaN)."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    one, other = (each.detach().cpu().reshape(-1).view(torch.uint8) for each in (first, second))
    return torch.equal(one, other)


def encoded_state(state: Mapping[Place, Value]) -> dict[str, Tensor]:
    """Return the state under names for safetensors; what has a key that is no text or number is left out."""
    return {
        # Arrays are copied: torch takes none that cannot be written to without a warning.
        (PREFIX if isinstance(value, Tensor) else _NUMPY_PREFIX) + json.dumps(place, allow_nan=False): (
            value if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        )
        for place, value in state.items()
        if all(isinstance(key, (str, int)) for key in place)
    }


def split_state(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[Place, Value]]:
    """Part what a file holds into the state_dict and the state outside it."""
    inside = {name: tensor for name, tensor in tensors.items() if not name.startswith((PREFIX, _NUMPY_PREFIX))}
    outside: dict[Place, Value] = {}
    for name, tensor in tensors.items():
        if name.startswith(PREFIX):
            outside[tuple(json.loads(name.removeprefix(PREFIX)))] = tensor
        elif name.startswith(_NUMPY_PREFIX):
            outside[tuple(json.loads(name.removeprefix(_NUMPY_PREFIX)))] = tensor.cpu().numpy()
    return inside, outside


def place_words(place: Place) -> str:
    """Name a place for a person: `proj of layer head.attention`."""
    name, attribute, *keys = place
    holder = f"layer {name}" if name else "the network"
    return f"{attribute}{''.join(f'[{key!r}]' for key in keys)} of {holder}"


def _own(module: nn.Module, *, registered: bool = True) -> Iterator[tuple[str, object]]:
    """Yield the attributes of a module that its state_dict does not hold; of one that is not registered, all."""
    for name, buffer in module._buffers.items():  # noqa: SLF001 - torch has no public list of these
        if not registered or name in module._non_persistent_buffers_set:  # noqa: SLF001
            yield name, buffer
    if not registered:
        yield from module._parameters.items()  # noqa: SLF001
        yield from module._modules.items()  # noqa: SLF001
    yield from ((name, value) for name, value in vars(module).items() if name not in OWN)


def _leaves(value: object, place: Place, seen: set[int]) -> Iterator[tuple[Place, object]]:
    if type(value) in {Tensor, nn.Parameter}:
        if value.layout == torch.strided and not value.is_meta:  # type: ignore[attr-defined]
            yield place, value
    elif isinstance(value, SIMPLE) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc"):
        yield place, value
    elif id(value) not in seen:
        seen.add(id(value))
        for key, item in _items(value):
            yield from _leaves(item, (*place, key), seen)


def _items(value: object) -> Iterable[tuple[Any, object]]:
    if isinstance(value, nn.Module):
        return _own(value, registered=False)
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    if type(value).__module__.startswith(_DEFINITIONS) and hasattr(value, "__dict__"):
        return list(vars(value).items())
    return ()


def _with(holder: Any, keys: list[Any], value: Value) -> Any:  # noqa: ANN401 - containers of the user's own
    """Return `holder` with `value` where `keys` lead: the same object, but for tuples."""
    if not keys:
        if not isinstance(holder, Tensor) or not isinstance(value, Tensor):
            return value
        placed = value.detach().to(holder.device)
        return nn.Parameter(placed, holder.requires_grad) if isinstance(holder, nn.Parameter) else placed
    key, *rest = keys
    if isinstance(holder, tuple):
        items = [_with(item, rest, value) if index == key else item for index, item in enumerate(holder)]
        return type(holder)(*items) if hasattr(holder, "_fields") else type(holder)(items)
    items = _mapping(holder, key)
    if rest and not isinstance(holder, list) and key not in items:
        raise LookupError(key)
    items[key] = _with(items[key] if rest or isinstance(holder, list) else items.get(key), rest, value)
    return holder


def _mapping(holder: Any, key: Any) -> Any:  # noqa: ANN401
    """Return what holds `key`: the list or dictionary itself, or the one of a module or object."""
    if isinstance(holder, nn.Module):
        owners = (holder._parameters, holder._buffers, holder._modules)  # noqa: SLF001
        return next((each for each in owners if key in each), vars(holder))
    if isinstance(holder, (list, dict)):
        return holder
    if not hasattr(holder, "__dict__"):
        raise LookupError(key)
    return vars(holder)
