"""Prune: remove whole channels, so that every runtime has less to compute.

Channels that must leave together (residual sums, depthwise convolutions, the input side of the next layers) are found
on the exported graph; each class of them gets one score, and the lowest leave. What cannot be removed safely is kept
whole and listed with the reason. The result is certified: it equals the original with the removed channels zeroed.

Source: L1 norm, Li et al. 2017; group L2 norm, DepGraph, Fang et al. 2023. Of fifteen comparisons of criteria in
PruningBench (2024) the plain norms did best on average, which is why L2 is the default.

It does not help by itself: accuracy falls at once and comes back only in a `finetune` stage after this one. It buys
little time where latency is bound by memory traffic or by few channels, and none when widths miss the runtime's
vector size, hence `align`.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.core.units import Ratio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from pipeline.compress.certificate import Certificate
    from pipeline.compress.graph import ChannelGraph, Group
    from pipeline.core.artifact import Artifact, Form

Kept = dict[str, tuple[int, ...]]


class Prune(Stage):
    """Remove the least important channels of a torch network."""

    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    kind: Literal["prune"]
    criterion: Literal["l1", "l2", "random"] = Field(
        default="l2",
        description="What a channel's score is, over everything that leaves with it: sum of absolute weights (l1), of "
        "squared weights (l2), or chance (random, the baseline).",
    )
    allocation: Literal["uniform", "global"] = Field(
        default="global",
        description="How many channels each group loses: the same fraction everywhere (uniform), or as one ranking of "
        "all channels has it, scores divided by their group's mean (global).",
    )
    ratio: Ratio = Field(
        description="Fraction of the removable channels to remove. Operations fall faster: half of the channels are "
        "about a quarter of the operations."
    )
    floor: Ratio = Field(default=0.1, description="Smallest fraction of its channels that every group keeps.")
    align: Annotated[int, Field(ge=1)] = Field(
        default=8,
        description="Kept widths are rounded to the nearest multiple; groups no wider than this stay whole. 8 suits "
        "the vector units of most CPUs.",
    )
    keep: tuple[str, ...] = Field(
        default=(),
        description="Layers whose output channels stay as they are, by qualified name; patterns such as layer4.* are "
        "allowed.",
    )

    @property
    def consumes(self) -> frozenset[Form]:
        """Torch networks."""
        return frozenset({"torch"})

    def produces(self, given: Form) -> Form:
        """Return the same form."""
        return given

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Prune and certify. Raises StageError when nothing would be removed or the result is not what it should be."""
        from copy import deepcopy

        from pipeline.compress.certificate import certify
        from pipeline.compress.graph import trace
        from pipeline.compress.literals import without_literals
        from pipeline.compress.surgery import apply, plan_for
        from pipeline.network import load_network, write_network

        model, example = load_network(given), _example(given)
        context.progress.update(0, 3, "finding coupled channels")
        graph = without_literals(trace(model, example), model, example)
        open_groups = self._open(graph)
        kept = self._allocate(graph, open_groups, model, context.seed)
        plan = plan_for(graph, kept)
        if not plan.keep:
            raise StageError(self._nothing(graph, open_groups))
        context.progress.update(1, 3, "removing channels")
        pruned = deepcopy(model)
        apply(pruned, plan)
        context.progress.update(2, 3, "certifying")
        certificate = certify(model, pruned, plan, example)
        write_network(context.folder, pruned, parent=given, edits=[{"kind": "prune", "keep": plan.as_json()}])
        changed = {
            **_widths(graph, kept),
            **_costs(model, pruned, example),
            "certificate": _certificate(certificate),
            "kept_whole": self._kept_whole(graph, open_groups),
        }
        return Outcome("torch", given.inputs, given.outputs, changed=changed)

    def _open(self, graph: ChannelGraph) -> tuple[Group, ...]:
        """Return the groups that no pattern of `keep` names."""
        from pipeline.compress.graph import layer_of

        names = {group.name: {group.name, *group.layers} for group in graph.groups}
        whole = {layer_of(frozen.tensor) for frozen in graph.frozen}
        for pattern in self.keep:
            if not fnmatch.filter(whole.union(*names.values()), pattern):
                raise InputError(f"keep: found {pattern!r}, which matches no layer. Groups: {', '.join(names)}")
        return tuple(
            group
            for group in graph.groups
            if not any(fnmatch.filter(names[group.name], pattern) for pattern in self.keep)
        )

    def _allocate(self, graph: ChannelGraph, groups: Iterable[Group], model: nn.Module, seed: int) -> Kept:
        """Score all channels and return which of them each of the groups keeps."""
        from pipeline.compress.allocation import global_ranking, uniform
        from pipeline.compress.importance.l1 import l1
        from pipeline.compress.importance.l2 import l2
        from pipeline.compress.importance.random import random

        if self.criterion == "random":
            scores = random(graph, seed)
        else:
            scores = {"l1": l1, "l2": l2}[self.criterion](graph, dict(model.named_parameters()))
        allocate = {"uniform": uniform, "global": global_ranking}[self.allocation]
        candidates = {group.name: scores[group.name] for group in groups}
        return allocate(candidates, self.ratio, floor=self.floor, align=self.align)

    def _kept_whole(self, graph: ChannelGraph, groups: Iterable[Group]) -> dict[str, list[str]]:
        """Return the layers of which no channel could leave, by reason."""
        from pipeline.compress.graph import layer_of

        reasons: dict[str, dict[str, None]] = {}
        for frozen in graph.frozen:
            if not frozen.consumes:
                reasons.setdefault(frozen.reason, {})[layer_of(frozen.tensor)] = None
        narrow, named = f"no wider than align {self.align}", "named in keep"
        candidates = {group.name for group in groups}
        for group in graph.groups:
            if group.name not in candidates:
                reasons.setdefault(named, {})[group.name] = None
            elif group.width <= self.align:
                reasons.setdefault(narrow, {})[group.name] = None
        return {reason: list(layers) for reason, layers in reasons.items()}

    def _nothing(self, graph: ChannelGraph, groups: Iterable[Group]) -> str:
        whole = "; ".join(
            f"{reason}: {', '.join(layers)}" for reason, layers in self._kept_whole(graph, groups).items()
        )
        return (
            f"Pruning with ratio {self.ratio} and align {self.align} would remove nothing from "
            f"{len(graph.groups)} groups of channels. Raise ratio, or lower align. Kept whole: {whole or 'none'}"
        )


def _example(given: Artifact) -> Tensor:
    """Return a batch of two inputs of the artifact's shape; only the shape matters."""
    import torch

    shape = given.inputs[0].shape
    if len(given.inputs) > 1 or min(shape[1:], default=0) < 1:
        found = ", ".join(f"{spec.name} {spec.shape}" for spec in given.inputs)
        raise InputError(f"Pruning needs a network with one input of fixed size beside the batch; found {found}")
    return torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(0))


def _widths(graph: ChannelGraph, kept: Kept) -> dict[str, Any]:
    """Return the channels over all groups, and the widths of the groups that changed."""
    widths = {g.name: {"before": g.width, "after": len(kept.get(g.name, range(g.width)))} for g in graph.groups}
    total = {key: sum(width[key] for width in widths.values()) for key in ("before", "after")}
    return {"channels": total, "widths": {n: width for n, width in widths.items() if width["before"] != width["after"]}}


def _costs(model: nn.Module, pruned: nn.Module, example: Tensor) -> dict[str, Any]:
    """Return operations and parameters before and after."""
    from pipeline.compress.cost import count

    before, after = count(model, example), count(pruned, example)
    return {
        "macs": {"before": before.macs, "after": after.macs},
        "parameters": {"before": before.parameters, "after": after.parameters},
    }


def _certificate(certificate: Certificate) -> dict[str, float]:
    """Return how exactly the result equals the original with the removed channels zeroed, in float64."""
    return {"max_error": certificate.max_error, "scale": certificate.scale, "batches": certificate.batches}
