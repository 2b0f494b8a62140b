"""What a pruning did, as plain JSON for the run's record: widths, costs, proof, and what was not pruned and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.compress.pruning.cost import count_cost
from pipeline.compress.pruning.graph import layer_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.exported import Example
    from pipeline.compress.pruning.prune import PrunedNetwork
    from pipeline.compress.pruning.selection import CostName, TracedNetwork

    Record = dict[str, Any]


def frozen_layers(graph: ChannelGraph) -> dict[str, list[str]]:
    """Return the layers whose output channels cannot leave, by reason."""
    reasons: dict[str, dict[str, None]] = {}
    for frozen in graph.frozen:
        if not frozen.consumes:
            reasons.setdefault(frozen.reason, {})[layer_of(frozen.tensor)] = None
    return {reason: list(layers) for reason, layers in reasons.items()}


def kept_whole(network: TracedNetwork) -> dict[str, list[str]]:
    """Return the layers of which no channel could leave, by reason: of the engine, of the recipe, of the widths."""
    found = frozen_layers(network.graph)
    for name, width in network.widths.items():
        align = network.constraints.of(name).align
        if name in network.unpruned:
            found.setdefault("named in keep", []).append(name)
        elif width <= align:
            found.setdefault(f"no wider than align {align}", []).append(name)
    return found


def listed(reasons: Mapping[str, Sequence[str]]) -> str:
    """Return reasons and their layers as one text for a message."""
    return "; ".join(f"{reason}: {', '.join(layers)}" for reason, layers in reasons.items()) or "none"


def widths_after(network: TracedNetwork, records: Sequence[Record]) -> dict[str, int]:
    """Return the width of every group after all removals."""
    widths = network.widths
    for record in records:
        widths |= record.get("widths", {})
    return widths


def changed(
    before: nn.Module,
    after: nn.Module,
    network: TracedNetwork,
    records: Sequence[Record],
    target: tuple[CostName, float] | None,
) -> Record:
    """Return what changed from the network that was given to the result.

    Args:
        before: the network that was given.
        after: the result.
        network: what the engine sees in the given one.
        records: of every removal and training, in order.
        target: the cost that was asked for, as a fraction of the given network's.
    """
    widths = widths_after(network, records)
    return {
        **_widths(network, widths),
        **costs(before, after, network.captured.example),
        **_target(network, widths, target),
        **next((record["found"] for record in reversed(records) if record.get("found")), {}),
        **_steps(network, records),
        **(proof(removals) if (removals := [each for each in records if "certificate" in each]) else {}),
        "kept_whole": kept_whole(network),
    }


def removal_record(pruned: PrunedNetwork) -> Record:
    """Return the proof of one removal, and how the network was changed."""
    certificate = pruned.certificate
    return {
        "certificate": {
            "max_error": certificate.max_error,
            "scale": certificate.scale,
            "modes": list(certificate.modes),
            "training": certificate.training,
        },
        "statistics": list(certificate.statistics),
        "rewritten": pruned.rewritten,
    }


def proof(removals: Sequence[Record]) -> Record:
    """Return the worst certificate of several removals, all statistics over fewer channels, and how it was done."""
    certificates = [each["certificate"] for each in removals]
    worst = max(certificates, key=lambda each: float(each["max_error"] / each["scale"]))
    fewest = min(certificates, key=lambda each: len(each["modes"]))
    reason = next((each["rewritten"] for each in removals if each["rewritten"]), None)
    return {
        "certificate": {**worst, "modes": fewest["modes"], "training": fewest["training"]},
        "statistics": list(dict.fromkeys(name for each in removals for name in each["statistics"])),
        "applied": f"rewritten: {reason}" if reason else "in place",
    }


def _widths(network: TracedNetwork, after: Mapping[str, int]) -> Record:
    """Return the channels over all groups, and the widths of the groups that changed."""
    widths = {name: {"before": width, "after": after[name]} for name, width in network.widths.items()}
    total = {key: sum(width[key] for width in widths.values()) for key in ("before", "after")}
    return {"channels": total, "widths": {n: width for n, width in widths.items() if width["before"] != width["after"]}}


def costs(before: nn.Module, after: nn.Module, example: Example) -> Record:
    """Return operations and parameters before and after."""
    old, new = count_cost(before, example), count_cost(after, example)
    return {
        "macs": {"before": old.macs, "after": new.macs},
        "parameters": {"before": old.parameters, "after": new.parameters},
    }


def _target(network: TracedNetwork, widths: Mapping[str, int], target: tuple[CostName, float] | None) -> Record:
    """Return the fraction of a cost that was asked for, and the one that is left."""
    if target is None:
        return {}
    name, fraction = target
    model = network.cost_model(name)
    return {"target": {"cost": name, "asked": fraction, "reached": model.cost(widths) / model.cost({})}}


def _steps(network: TracedNetwork, records: Sequence[Record]) -> Record:
    """Return one line for each training: channels that are left, best epoch, and its accuracy on validation images."""
    steps = []
    for index, record in enumerate(records):
        if "history" in record:
            left = widths_after(network, records[:index])
            best = record["history"][record["epoch"] - 1] if record["history"] else {}
            accuracy = best.get("validation_accuracy")
            steps.append({"channels": sum(left.values()), "epoch": record["epoch"], "validation_accuracy": accuracy})
    return {"steps": steps} if steps else {}
