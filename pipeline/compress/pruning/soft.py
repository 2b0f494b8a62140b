"""Soft filter pruning: filters that are set to zero after every epoch but go on being trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.compress.pruning.graph import layer_of
from pipeline.compress.training.training import Regulariser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from pipeline.compress.pruning.graph import Group

    Kept = dict[str, tuple[int, ...]]


class SoftPruning(Regulariser):
    """After each epoch, chooses the channels that would leave and sets the filters that produce them to zero.

    A filter whose gradient brings it back in the next epoch may stay then. Norms are not touched: a channel behind a
    batch norm is a constant while its filter is zero, and that scale is what lets it grow again.

    Source: He et al., Soft Filter Pruning, IJCAI 2018. Differs: coupled layers are zeroed together, and the best epoch
    may be kept instead of the last: `kept[epoch]` says what was chosen after each, counted from 0.
    Limits: weights that the network computes from other weights are not zeroed; they leave in the end all the same.
    """

    def __init__(self, groups: Sequence[Group], choose: Callable[[nn.Module], Kept]) -> None:
        """Take the groups, and what chooses the classes to keep for the weights that a network has now."""
        self.groups = tuple(groups)
        self.choose = choose
        self.kept: list[Kept] = []

    def end_epoch(self, models: Sequence[nn.Module]) -> None:
        """Choose by the weights of the network, and set the other filters to zero in it and in its average."""
        self.kept.append(self.choose(models[0]))
        for model in models:
            zero_filters(model, self.groups, self.kept[-1])

    def state(self) -> dict[str, Any]:
        """Return the choices so far."""
        return {"kept": [{name: list(classes) for name, classes in kept.items()} for kept in self.kept]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the choices."""
        self.kept = [{name: tuple(classes) for name, classes in kept.items()} for kept in state["kept"]]


@torch.no_grad()
def zero_filters(model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> None:
    """Set the filters and biases that produce the channels of all classes but the kept ones to zero, in place.

    Groups that `kept` does not name stay as they are. Layers without a weight of two or more dimensions (norms) do too.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    layers = {layer_of(name) for name, parameter in parameters.items() if parameter.ndim > 1}
    for group in groups:
        gone = sorted(set(range(group.width)) - set(kept.get(group.name, range(group.width))))
        for member in group.members:
            if gone and not member.consumes and member.tensor in parameters and layer_of(member.tensor) in layers:
                parameter = parameters[member.tensor]
                positions = torch.from_numpy(member.positions[gone]).flatten().to(parameter.device)
                parameter.index_fill_(member.dim, positions, 0)
