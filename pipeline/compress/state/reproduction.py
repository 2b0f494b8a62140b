"""Whether a network that was built anew computes what the one in memory does, bit by bit, and if not, what is to blame.

Both run on the same example in evaluation mode, each with random numbers of its own: what depends on them differs.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compress.state.outside import attributes, outside_state, place_words, same_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Example = tuple[Tensor, ...]
#: Name of a layer, digest of its inputs, digest of its outputs.
Noted = tuple[str, str, str]
#: Relative to the largest output: what another order of the same sums may change. It counts as equal where every
#: tensor is.
ROUNDING = 1e-5


def example_for(shapes: Sequence[tuple[tuple[int, ...], str]]) -> Example:
    """Return normal numbers (zeros for integers) of these shapes and dtypes; sizes that are not fixed become 2."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape, name in shapes:
        sizes, dtype = [size if size > 0 else 2 for size in shape], getattr(torch, name)
        drawn = torch.randn(sizes, generator=generator) if dtype.is_floating_point else torch.zeros(sizes)
        found.append(drawn.to(dtype))
    return tuple(found)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Give the block random numbers of its own, and leave those of the process as they were."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - what a user's network may draw from
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002


@contextmanager
def left_unchanged(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for the block, and leave it as it was: tensors, attributes and modes."""
    attributes_before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]  # noqa: SLF001
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    model.eval()
    try:
        yield
    finally:
        for module, names, buffers in attributes_before:
            vars(module).clear()
            vars(module).update(names)
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(buffers)  # noqa: SLF001
        with torch.no_grad():
            for tensor, before in tensors:
                if not same_bits(tensor, before):
                    tensor.copy_(before)


def run_with(model: nn.Module, example: Example, tensors: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """Return all tensors of the outputs; with `tensors` in place of the network's own of these names."""
    given = tuple(tensor.clone() for tensor in example)  # a forward may write into its input
    with torch.no_grad():
        found = model(*given) if tensors is None else torch.func.functional_call(model, dict(tensors), given)
    return list(_tensors(found))


def outputs_alike(first: Sequence[Tensor], second: Sequence[Tensor], *, rounding: float = 0.0) -> bool:
    """Say whether outputs have the same bits or, with `rounding`, are equal to within that share of the largest."""
    if len(first) != len(second):
        return False
    return all(
        same_bits(*pair) or (rounding > 0 and _near(*pair, rounding)) for pair in zip(first, second, strict=True)
    )


def random_layer(model: nn.Module, example: Example) -> str | None:
    """Return the first layer that gives other outputs for the same inputs when it runs again; None without one.

    The empty name is the network itself. Compared are digests of the tensors of two passes.
    """
    first: list[Noted] = []
    second: list[Noted] = []
    for found in (first, second):
        with _recorded(model, found):
            run_with(model, example)
    for (name, given, made), (_, given_again, made_again) in zip(first, second, strict=False):
        if given == given_again and made != made_again:
            return name
    return None


def different_attributes(first: nn.Module, second: nn.Module) -> list[str]:
    """Name every plain value and tensor outside the state_dict that differs, with both values where they are short."""
    there = dict(attributes(second))
    found = []
    for place, value in attributes(first):
        other = there.get(place)
        if isinstance(value, (Tensor, np.ndarray)):
            if not same_bits(value, other):
                found.append(place_words(place))
        elif value != other:
            found.append(f"{place_words(place)} ({value!r}, then {other!r})")
    return found


def same_state(first: nn.Module, second: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> bool:
    """Say whether two networks hold the same bits everywhere; `tensors` stand for the first one's state_dict."""
    inside, there = dict(tensors or first.state_dict()), second.state_dict()
    pairs = [(inside[name], there.get(name)) for name in inside]
    outside = outside_state(second)
    pairs += [(value, outside.get(place)) for place, value in outside_state(first).items()]
    return all(same_bits(*pair) for pair in pairs)


def _near(first: Tensor, second: Tensor, rounding: float) -> bool:
    if first.shape != second.shape or not first.is_floating_point():
        return False
    scale = float(first.abs().max()) if first.numel() else 0.0
    return torch.allclose(first, second, rtol=0, atol=rounding * scale, equal_nan=True)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


@contextmanager
def _recorded(model: nn.Module, into: list[Noted]) -> Iterator[None]:
    """Note for every layer that ends, inner ones first, its name and the digests of its inputs and outputs."""

    def hook_of(name: str) -> Any:  # noqa: ANN401 - a hook of torch
        def note(_: nn.Module, given: object, made: object) -> None:
            into.append((name, _digest(given), _digest(made)))

        return note

    handles = [module.register_forward_hook(hook_of(name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _digest(value: object) -> str:
    total = hashlib.sha256()
    for tensor in _tensors(value):
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
