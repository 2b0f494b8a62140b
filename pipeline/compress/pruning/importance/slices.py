"""What a channel owns: the entries of all tensors that leave with it, and the filters that produce it."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph, Group, Member


def summed(graph: ChannelGraph, tensors: Mapping[str, Tensor], entry: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return for each group the sum of `entry(tensor)` over all that each class owns, float64 [width].

    An entry counts once, also where one class owns both its row and its column (a layer from a residual stream to the
    same stream) or where several layers share the tensor. Tensors that are not in `tensors` add nothing.
    """
    scores = {}
    for group in graph.groups:
        by_tensor: dict[str, list[Member]] = {}
        for member in group.members:
            if member.tensor in tensors:
                by_tensor.setdefault(member.tensor, []).append(member)
        score = torch.zeros(group.width, dtype=torch.float64)
        for name, members in by_tensor.items():
            score += _owned(entry(tensors[name].detach().double().cpu()), members)
        scores[group.name] = score
    return scores


def filters(group: Group, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the filters of each layer that produces the group's channels: float64 [width, weights of one filter].

    A filter is what a weight of two or more dimensions has for one channel on its output side, biases and norms apart.
    Where a class owns several channels of a layer (heads, a shuffle), their filters are joined into one. Tables that
    are added to channels, such as those of positions, count as layers.
    """
    found = []
    for member in group.members:
        weight = tensors.get(member.tensor)
        if not member.consumes and weight is not None and weight.dim() > 1:
            rows = weight.detach().double().cpu().movedim(member.dim, 0)
            found.append(rows[torch.from_numpy(member.positions)].flatten(1))
    return found


def require_groups(graph: ChannelGraph, scored: Collection[str], criterion: str, needed: str) -> None:
    """Raise InputError when groups are not among `scored`: a criterion that does not apply gives no score at all."""
    missing = [group.name for group in graph.groups if group.name not in scored]
    if missing:
        raise InputError(
            f"{criterion} needs {needed}; found none for {len(missing)} of {len(graph.groups)} groups of channels: "
            f"{', '.join(missing)}. Name them in `keep`, or choose another criterion; group_l2 applies to every group."
        )


def _owned(values: Tensor, members: Sequence[Member]) -> Tensor:
    """Return the sums over the union of the slices that each class owns of one tensor, by inclusion and exclusion."""
    total = torch.zeros(len(members[0].positions), dtype=values.dtype)
    for count in range(1, len(members) + 1):
        for chosen in combinations(members, count):
            leading = values.movedim([member.dim for member in chosen], list(range(count)))
            reduced = leading.unsqueeze(-1).flatten(count).sum(-1)
            grid = [
                torch.from_numpy(member.positions).view(
                    len(total), *(-1 if axis == own else 1 for axis in range(count))
                )
                for own, member in enumerate(chosen)
            ]
            total -= (-1) ** count * reduced[tuple(grid)].flatten(1).sum(1)
    return total
