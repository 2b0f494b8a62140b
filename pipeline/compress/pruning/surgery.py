"""Removing channels from a module in place: a plan that can be read, stored and replayed.

A plan says which indices of which tensors stay. It holds no values: building the original network, applying its plans
in order and loading the tensors gives the pruned network.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from pipeline.compress.pruning.tensors import sliced, stored_tensors, view_key
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph

Keep = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class PrunePlan:
    """Kept indices by tensor name and dimension; only tensors that change, parameters and buffers."""

    keep: dict[str, Keep]

    def as_json(self) -> dict[str, dict[str, list[int]]]:
        """Return the plan as plain JSON: {"conv1.weight": {"0": [0, 2, 5]}}."""
        return {
            name: {str(dim): list(indices) for dim, indices in dims.items()} for name, dims in sorted(self.keep.items())
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Sequence[int]]]) -> PrunePlan:
        """Read what `as_json` returned."""
        return cls({name: {int(dim): tuple(indices) for dim, indices in dims.items()} for name, dims in data.items()})


def plan_for(graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> PrunePlan:
    """Return the plan that keeps these classes of these groups; groups that are not named stay whole.

    Raises:
        InputError: a group is not known, or nothing of it would stay.
    """
    groups = {group.name: group for group in graph.groups}
    removed: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name, classes in kept.items():
        if name not in groups or not classes:
            found = "would lose all of its channels" if name in groups else "is not in the network"
            raise InputError(f"Group {name!r} {found}. Groups: {', '.join(groups)}")
        gone = np.setdiff1d(np.arange(groups[name].width), classes)
        for member in groups[name].members if len(gone) else ():
            removed[member.tensor][member.dim] |= set(member.positions[gone].ravel().tolist())
    keep: dict[str, Keep] = {}
    for tensor, dims in removed.items():
        shape = graph.shapes[tensor]
        stays = {dim: tuple(i for i in range(shape[dim]) if i not in gone) for dim, gone in sorted(dims.items())}
        keep |= dict.fromkeys(graph.aliases.get(tensor, (tensor,)), stays)
    return PrunePlan(keep)


def apply_plan(model: nn.Module, plan: PrunePlan) -> None:
    """Slice the parameters and buffers of a network in place and correct the sizes that its layers state.

    Data type, `requires_grad` and sharing between layers are kept; gradients are dropped. Parameters become new
    objects: build the optimizer afterwards.

    Raises:
        InputError: the plan names a tensor or an index that the network does not have; nothing is changed then.
    """
    _check(stored_tensors(model), plan)
    replaced: dict[object, tuple[Tensor, Tensor]] = {}
    for prefix, module in model.named_modules():
        named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        keeps = {name: plan.keep.get(f"{prefix}.{name}" if prefix else name, {}) for name, _ in named}
        groups = _remaining_groups(module, keeps.get("weight", {}))
        for name, tensor in named:
            if keeps[name]:
                setattr(module, name, _replaced(tensor, keeps[name], replaced))
        if any(keeps.values()):
            _correct_sizes(module, groups)


def _check(tensors: Mapping[str, Tensor], plan: PrunePlan) -> None:
    for name, dims in plan.keep.items():
        if name not in tensors:
            raise InputError(f"The plan prunes {name!r}, which the network does not have. Expected its own plan.")
        shape = tuple(tensors[name].shape)
        for dim, indices in dims.items():
            if dim >= len(shape) or not indices or max(indices) >= shape[dim]:
                raise InputError(
                    f"The plan keeps indices up to {max(indices, default=None)} in dimension {dim} of {name!r}, whose "
                    f"shape is {shape}. Expected a plan made for this network."
                )


def _replaced(tensor: Tensor, keep: Keep, replaced: dict[object, tuple[Tensor, Tensor]]) -> Tensor:
    """Return the smaller tensor, the same one wherever the tensor is shared.

    `replaced` holds the original too: its memory must stay taken as long as addresses tell tensors apart.
    """
    key = view_key(tensor)
    if key not in replaced:
        data = sliced(tensor, keep)
        new = nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
        replaced[key] = new, tensor
    return replaced[key][0]


def _remaining_groups(module: nn.Module, keep: Keep) -> int:
    """Return how many groups of channels a grouped layer keeps, from the kept indices of its weight."""
    if isinstance(module, nn.GroupNorm):
        total, channels = module.num_groups, module.num_channels
    elif isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001 - the only common class of all convolutions
        total, channels = module.groups, module.in_channels if module.transposed else module.out_channels
    else:
        return 1
    return len({index // (channels // total) for index in keep.get(0, range(channels))}) if total > 1 else 1


def _correct_sizes(module: nn.Module, groups: int) -> None:
    """Set the sizes that a layer states apart from its tensors. Other classes state none that is known here."""
    match module:
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.Embedding():
            module.embedding_dim = module.weight.shape[1]
        case nn.LayerNorm() | nn.RMSNorm() if module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        case nn.RNNBase():
            weights = dict(module.named_parameters())
            module.hidden_size, module.input_size = weights["weight_hh_l0"].shape[1], weights["weight_ih_l0"].shape[1]
        case nn.RNNCellBase():
            module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]
        case nn.PReLU():
            module.num_parameters = len(module.weight)
        case nn.GroupNorm():
            module.num_groups, module.num_channels = groups, len(module.weight)
        case nn.modules.batchnorm._NormBase():  # noqa: SLF001 - the only common class of all batch and instance norms
            module.num_features = len(next(t for t in (module.weight, module.running_mean) if t is not None))
        case nn.modules.conv._ConvNd():  # noqa: SLF001
            module.groups = groups
            outer, inner = module.weight.shape[:2]
            channels = (inner * groups, outer) if module.transposed else (outer, inner * groups)
            module.out_channels, module.in_channels = channels
