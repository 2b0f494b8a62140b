"""Prune: remove whole channels, so that every runtime has less to compute.

Channels that must leave together (residual sums, depthwise convolutions, the input side of the next layers) are found on
the exported graph; each class of them gets one score, and the lowest leave. What cannot be removed safely is kept whole
and listed with the reason. The result is certified: it equals the original with the removed channels set to zero.

Source: L1 norm, Li et al. 2017; group L2 norm, DepGraph, Fang et al. 2023. Of fifteen comparisons of criteria in
PruningBench (2024) the plain norms did best on average, which is why L2 is the default.

It does not help by itself: accuracy falls at once and comes back only in a `finetune` stage after this one. It buys
little time where latency is bound by memory traffic or by few channels, and none when widths miss the runtime's
vector size, hence `align`.
"""

from __future__ import annotations

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
        description="Kept widths are rounded to the nearest multiple; groups no wider than this stay whole. 8 suits the "
        "vector units of most CPUs.",
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
        from pipeline.compress.surgery import apply, plan_for
        from pipeline.network import load_network, write_network

        model, example = load_network(given), _example(given)
        context.progress.update(0, 3, "finding coupled channels")
        graph = trace(model, example)
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
        from fnmatch import filter as matching

        from pipeline.compress.graph import layer_of

        names = {group.name: {group.name, *group.layers} for group in graph.groups}
        fixed = {layer_of(frozen.tensor) for frozen in graph.frozen}
        for pattern in self.keep:
            if not matching(fixed.union(*names.values()), pattern):
                raise InputError(f"keep: found {pattern!r}, which matches no layer. Groups: {', '.join(names)}")
        return tuple(g for g in graph.groups if not any(matching(names[g.name], pattern) for pattern in self.keep))
