"""Apply a choice of channels to a network, in place where its own code allows it, and prove the result."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compress.certificate import Certificate, DifferentError, Reference, check_values
from pipeline.compress.graph_nodes import layer_path, plain_name
from pipeline.compress.graph_sizes import Call
from pipeline.compress.rewrite import rewrite
from pipeline.compress.surgery import PrunePlan, apply, plan_for
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from pipeline.compress.capture import Captured
    from pipeline.compress.graph import ChannelGraph
    from pipeline.compress.graph_walk import Walk


@dataclass(frozen=True)
class Pruned:
    """A smaller network with its proof.

    `rewritten`: the reason why the network's own forward could not be kept; empty if it was. `blocks`: residual blocks
    that have left whole.
    """

    model: nn.Module
    plan: PrunePlan
    certificate: Certificate
    rewritten: str
    blocks: tuple[str, ...] = ()


def prune(captured: Captured, graph: ChannelGraph, model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Pruned:
    """Remove all classes but the `kept` ones of each named group; the given network is not changed.

    The result is a copy of the network with smaller layers where its own forward still computes the right thing, else
    a module written anew from the graph (see rewrite.py).

    Raises:
        InputError: a group is not known, or nothing of it would stay.
        StageError: neither way gives the original without the removed channels.

    Cost: a copy of the network, and three to four forward passes of the example in float64 for the certificate.
    """
    if graph.walk is None:
        raise InputError("The graph has no walk: expected what trace() returned.")
    plan = plan_for(graph, kept)
    reference = Reference(captured, graph.walk, plan)
    try:
        pruned, reason = _in_place(captured, graph.walk, model, plan), ""
        certificate = reference.certify(pruned)
    except DifferentError as error:
        reason = str(error)
        pruned = rewrite(captured, graph.walk, plan)
        try:
            certificate = reference.certify(pruned)
        except DifferentError as second:
            raise StageError(
                f"The network cannot be pruned by this plan: {second} Leave groups out by `keep`, and report this: "
                "it is a defect of the rules for one of its operators."
            ) from second
    check_values(captured, pruned, plan)
    return Pruned(pruned, plan, certificate, reason)


def _in_place(captured: Captured, walk: Walk, model: nn.Module, plan: PrunePlan) -> nn.Module:
    if foreign := captured.foreign & plan.keep.keys():
        raise DifferentError(f"The network computes {', '.join(sorted(foreign))} itself.")
    if layer := _stated_width(captured, walk, plan):
        raise DifferentError(f"Layer {layer} states its width and has no tensor that would change it.")
    pruned = deepcopy(model)
    apply(pruned, plan)
    return pruned


def _stated_width(captured: Captured, walk: Walk, plan: PrunePlan) -> str:
    """Return an instance norm without tensors that would go on stating its old width; empty if there is none."""
    removed = walk.removed(plan.keep)
    for node in captured.module.graph.nodes:
        if plain_name(node) == "instance_norm" and all(source.op != "get_attr" for source in node.all_input_nodes):
            value = walk.values[node.all_input_nodes[0].name]
            if Call(node, walk, removed).loses(value, 1):
                return layer_path(node) or "instance_norm"
    return ""
