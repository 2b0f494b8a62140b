"""Literal sizes in a network's own code: `x.view(-1, 800)` or `x[:, :32]` break once channels have left."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.compress.graph import ChannelGraph, Frozen
from pipeline.compress.inference import outputs, where
from pipeline.compress.surgery import apply, plan_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from pipeline.compress.graph import Group


def without_literals(graph: ChannelGraph, model: nn.Module, example: Tensor) -> ChannelGraph:
    """Return the graph with those groups frozen that cannot lose a channel without breaking the network's code.

    A copy of the network loses the last channel of every group and runs. If it does not, groups are tried one by one;
    the reason of a frozen group then names the line that failed. The model is not changed.

    Cost: one forward pass, and where that fails one more for each group.
    Limits: code that goes on with wrong numbers is not seen here; the certificate finds it.
    """
    groups = [group for group in graph.groups if group.width > 1]
    if _failure(graph, groups, model, example) is None:
        return graph
    reasons = {group.name: _failure(graph, [group], model, example) for group in groups}
    frozen = tuple(
        Frozen(
            member.tensor,
            member.dim,
            f"holds a literal number of channels: without one, {reason} fails",
            member.consumes,
        )
        for group in groups
        if (reason := reasons[group.name])
        for member in group.members
    )
    free = tuple(group for group in graph.groups if not reasons.get(group.name))
    return replace(graph, groups=free, frozen=graph.frozen + frozen)


def _failure(graph: ChannelGraph, groups: Iterable[Group], model: nn.Module, example: Tensor) -> str | None:
    """Return where the network fails without the last channel of these groups, or None if it runs."""
    smaller = deepcopy(model)
    apply(smaller, plan_for(graph, {group.name: range(group.width - 1) for group in groups}))
    try:
        outputs(smaller, example)
    except Exception as error:  # noqa: BLE001 - any error of the user's code is the finding
        return where(error)
    return None
