"""The stored tensors of a network by name: which are shared between layers, and slices of them."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers under all of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def copied_network(model: nn.Module) -> nn.Module:
    """Return a deep copy in the same modes; tensors that it keeps from a forward pass are copied without their history.

    Layers with a way of their own to be copied (those of einops) may come back in training mode.
    """
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    result = deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf})
    for copy, module in zip(result.modules(), model.modules(), strict=True):
        copy.training = module.training
    return result


def view_key(tensor: Tensor) -> tuple[object, ...]:
    """Return what is equal for two tensors if they are the same view of the same memory."""
    return tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride()


def shared_names(tensors: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Return the names of each distinct tensor; more than one where layers share it."""
    names = defaultdict(list)
    for name, tensor in tensors.items():
        names[view_key(tensor)].append(name)
    return [tuple(group) for group in names.values()]


def overlapping_tensors(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the first names of tensors that share memory with another one without being the same view."""
    spans = []
    for first, *_ in shared_names(tensors):
        tensor = tensors[first]
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        spans.append((tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size(), first))
    spans = sorted(span for span in spans if span[0])
    pairs = [(before, after) for before, after in pairwise(spans) if after[0] < before[1]]
    return {span[2] for pair in pairs for span in pair}


def sliced(tensor: Tensor, keep: Mapping[int, Sequence[int]]) -> Tensor:
    """Return a copy with only the kept indices of each dimension in `keep`, without gradient history."""
    tensor = tensor.detach()
    for dim, indices in keep.items():
        tensor = tensor.index_select(dim, torch.tensor(indices, device=tensor.device))
    return tensor


def masked(tensor: Tensor, keep: Mapping[int, Sequence[int]]) -> Tensor:
    """Return a copy with zeros at all indices that are not kept."""
    tensor = tensor.detach().clone()
    for dim, indices in keep.items():
        removed = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
        removed[list(indices)] = False
        tensor.movedim(dim, 0)[removed] = 0
    return tensor
