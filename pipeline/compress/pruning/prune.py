"""Apply a choice of channels to a network, in place where its own code allows it, and prove the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compress.pruning.certificate import Certificate, DifferentError, Reference, check_values
from pipeline.compress.pruning.graph.nodes import layer_path, plain_name
from pipeline.compress.pruning.graph.sizes import Call
from pipeline.compress.pruning.rewrite import rewrite_module, training_switches
from pipeline.compress.pruning.surgery import PrunePlan, apply_plan, plan_for
from pipeline.compress.pruning.tensors import copied_network
from pipeline.compress.pruning.trial import Trial
from pipeline.core.errors import InputError, StageError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.walk import Walk


@dataclass(frozen=True)
class PrunedNetwork:
    """A smaller network with its proof.

    `rewritten`: the reason why the network's own forward could not be kept; empty if it was. `blocks`: residual blocks
    that have left whole.
    """

    model: nn.Module
    plan: PrunePlan
    certificate: Certificate
    rewritten: str
    blocks: tuple[str, ...] = ()


def prune_channels(
    captured: CapturedGraph, graph: ChannelGraph, model: nn.Module, kept: Mapping[str, Sequence[int]]
) -> PrunedNetwork:
    """Remove all classes but the `kept` ones of each named group; the given network is not changed.

    The result is a copy of the network with smaller layers where its own forward still computes the right thing, else
    a module rewritten from the graph (see rewrite.py).

    Raises:
        InputError: a group is not known, nothing of it would stay, or the network's outputs differ from run to run.
        StageError: neither way gives the original without the removed channels, or what still trains as it does.

    Cost: copies of the network, three to four forward passes of the example in float64 for the certificate, and two
    steps of training.
    """
    if graph.walk is None:
        raise InputError("The graph has no walk: expected what trace() returned.")
    plan = plan_for(graph, kept)
    reference, trial, reason = Reference(captured, graph.walk, plan), Trial(model, captured.example), ""
    try:
        pruned = prune_in_place(captured, graph.walk, model, plan)
        certificate = trial.complete(reference.certify(pruned), reference, pruned)
    except DifferentError as error:
        reason = str(error)
        trial.check_repeatable()
        pruned, certificate = _anew(captured, graph.walk, reference, trial)
    check_values(captured, pruned, plan)
    return PrunedNetwork(pruned, plan, certificate, reason)


def _anew(captured: CapturedGraph, walk: Walk, reference: Reference, trial: Trial) -> tuple[nn.Module, Certificate]:
    """Write the network anew and certify it: after this way there is no other."""
    switches = training_switches(captured, trial.model)
    pruned = rewrite_module(captured, walk, reference.plan, switches)
    try:
        certificate = trial.complete(reference.certify(pruned), reference, pruned, switches.lost)
    except DifferentError as error:
        raise StageError(
            f"The network cannot be pruned by this plan: {error} Exclude groups by `keep`, and report this: it is a "
            "defect in the rules for one of its operators."
        ) from error
    trial.check_batches(pruned)
    return pruned, certificate


def prune_in_place(captured: CapturedGraph, walk: Walk, model: nn.Module, plan: PrunePlan) -> nn.Module:
    """Return a copy of the network with smaller layers, whose forward may still compute something else.

    Raises:
        DifferentError: it is known that it would.
    """
    if foreign := captured.foreign & plan.keep.keys():
        computed = foreign & captured.precise.keys()
        what = "computes" if computed else "writes the numbers of"
        raise DifferentError(f"The network {what} {', '.join(sorted(computed or foreign))} itself.")
    if layer := _stated_width(captured, walk, plan):
        raise DifferentError(f"Layer {layer} states its width and has no tensor that would change it.")
    try:
        pruned = copied_network(model)
    except Exception as error:
        raise DifferentError(f"The network cannot be copied: {first_line(error)}.") from error
    apply_plan(pruned, plan)
    return pruned


def _stated_width(captured: CapturedGraph, walk: Walk, plan: PrunePlan) -> str:
    """Return an instance norm without tensors that would go on stating its old width; empty if there is none."""
    removed = walk.removed(plan.keep)
    for node in captured.module.graph.nodes:
        if plain_name(node) == "instance_norm" and all(source.op != "get_attr" for source in node.all_input_nodes):
            value = walk.values[node.all_input_nodes[0].name]
            if Call(node, walk, removed).loses(value, 1):
                return layer_path(node) or "instance_norm"
    return ""
