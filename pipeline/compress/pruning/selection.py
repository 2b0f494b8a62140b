"""Which channels leave: from the scores of a criterion, through an allocation, to the classes that each group keeps.

Everything that a pruning decides is decided here, on the captured network and without changing it.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.compress.pruning.allocation import (
    Constraints,
    GroupConstraint,
    KnapsackAllocation,
    by_pattern,
    explicit_rates,
    global_allocation,
    isomorphic_allocation,
    judged_candidates,
    ratio_limits,
    sensitivity,
    uniform_allocation,
)
from pipeline.compress.pruning.cost import ProductsModel, macs_model, parameters_model, size_model
from pipeline.compress.pruning.graph import Axis, layer_of
from pipeline.compress.pruning.importance.criteria import CRITERIA, score_channels
from pipeline.compress.pruning.importance.normalise import normalised_scores
from pipeline.compress.pruning.importance.request import ScoreRequest
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.surgery import plan_for
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from pipeline.compress.names import AllocationName
    from pipeline.compress.pruning.allocation import Allocation, Kept
    from pipeline.compress.pruning.cost import CostModel
    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.names import CriterionName, Normalisation
    from pipeline.compress.pruning.importance.reconstruction import Products
    from pipeline.compress.pruning.samples import Samples

CostName = Literal["macs", "parameters", "size"]
Setting = TypeVar("Setting")

#: Fractions of a group that are removed to see how sensitive it is.
_SENSITIVITY_RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
LISTED = 12  # names in a message


@dataclass(frozen=True)
class GroupLimit:
    """What patterns may change about a group's constraints; what is None stays as for all groups."""

    floor: float | None = None
    align: int | None = None
    max_ratio: float | None = None


@dataclass(frozen=True)
class SelectionRules:
    """What a pruning is asked for, apart from how much leaves.

    Attributes:
        criterion: a name of `importance.names`.
        normalise: what makes scores comparable between groups; None: what the criterion calls for.
        allocation: how the loss is spread over the groups.
        floor: smallest fraction that a group keeps.
        align: grid of kept widths.
        limits: other floors and grids by pattern of groups or layers.
        keep: patterns of groups or layers that are left alone.
        heads: classes are whole attention heads, for which `align` does not hold.
        candidates: how many random allocations are judged beside the planned one.
        tolerance: accuracy that one group alone may cost, for `sensitivity`.
        seed: of everything random.
    """

    criterion: CriterionName
    normalise: Normalisation | None
    allocation: AllocationName
    floor: float
    align: int
    limits: Mapping[str, GroupLimit]
    keep: tuple[str, ...]
    heads: bool
    candidates: int
    tolerance: float
    seed: int


@dataclass(frozen=True)
class PruneAmount:
    """How much leaves: a fraction of the channels, or down to a cost in its unit, or fractions by group."""

    ratio: float | None = None
    cost: tuple[CostName, float] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """Kept classes by group, what was found on the way, and what ThiNet's rescaling of the kept channels needs."""

    kept: Kept
    details: dict[str, Any]
    products: Products | None = None


@dataclass(frozen=True)
class TracedNetwork:
    """A network as a pruning sees it.

    Attributes:
        captured: its graph.
        graph: its channels.
        rules: what the pruning is asked for.
        unpruned: the groups that `keep` names.
        constraints: what every group keeps at least.
    """

    captured: CapturedGraph
    graph: ChannelGraph
    rules: SelectionRules
    unpruned: frozenset[str]
    constraints: Constraints

    @property
    def widths(self) -> dict[str, int]:
        """The width of every group."""
        return {group.name: group.width for group in self.graph.groups}

    @property
    def open(self) -> ChannelGraph:
        """The channels without the groups that are to be left alone."""
        return replace(
            self.graph, groups=tuple(group for group in self.graph.groups if group.name not in self.unpruned)
        )

    @property
    def wide(self) -> dict[str, int]:
        """The widths of the open groups that are wider than their grid: those of which a ratio is taken."""
        groups = {group.name: group.width for group in self.open.groups}
        return {name: width for name, width in groups.items() if width > self.constraints.of(name).align}

    def cost_model(self, name: CostName) -> CostModel:
        """Return what counts as cost."""
        match name:
            case "macs":
                return macs_model(self.graph)
            case "parameters":
                return parameters_model(self.graph, dict(self.captured.module.named_parameters()))
            case "size":
                module = self.captured.module
                stored = {**dict(module.named_parameters()), **dict(module.named_buffers())}
                return size_model(self.graph, {tensor: value.element_size() for tensor, value in stored.items()})

    def channels_model(self) -> CostModel:
        """Return the number of channels of the wide groups."""
        return ProductsModel("channels", self.graph.groups, [(1, (Axis(0, {name: 1}),)) for name in self.wide])


def traced_network(
    captured: CapturedGraph, graph: ChannelGraph, rules: SelectionRules, blocks: Iterable[str] = ()
) -> TracedNetwork:
    """Match a pruning's patterns with the groups of a network; `blocks` are other names that `keep` may have.

    Raises:
        InputError: a pattern of `keep` names no layer, or one of `limits` no layer with channels to remove.
    """
    names = _names_of(graph)
    frozen = {layer_of(frozen.tensor) for frozen in graph.frozen}
    check_patterns("keep", rules.keep, frozen.union(blocks, *names.values()))
    whole = {group for group, own in names.items() if any(fnmatch.filter(own, pattern) for pattern in rules.keep)}
    return TracedNetwork(captured, graph, rules, frozenset(whole), _constraints(graph, rules))


def _constraints(graph: ChannelGraph, rules: SelectionRules) -> Constraints:
    per_group = {
        group.name: GroupConstraint(rules.floor, 1)
        for group in (graph.groups if rules.heads else ())
        if min((each.positions.shape[1] for each in group.members if not each.consumes), default=1) > 1
    }
    for name, limit in settings_by_group(graph, "constraints", rules.limits).items():
        known = per_group.get(name) or GroupConstraint(rules.floor, rules.align)
        floor = known.floor if limit.floor is None else limit.floor
        per_group[name] = GroupConstraint(floor, limit.align or known.align, limit.max_ratio)
    return Constraints(rules.floor, rules.align, per_group)


def settings_by_group(graph: ChannelGraph, key: str, patterns: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the setting of every group that a pattern of a recipe's `key` names; of several the last holds.

    Raises InputError when a pattern names no layer that has channels to remove.
    """
    check_patterns(key, patterns, set().union(*_names_of(graph).values()))
    return by_pattern(graph.groups, patterns)


def _names_of(graph: ChannelGraph) -> dict[str, set[str]]:
    """Return by group the names that a pattern may match: its own and those of its layers."""
    return {group.name: {group.name, *group.layers} for group in graph.groups}


def check_patterns(key: str, patterns: Iterable[str], names: set[str]) -> None:
    """Raise InputError when a pattern matches none of the names; the nearest of them are shown."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = get_close_matches(pattern, sorted(names), n=3) or sorted(names)[:LISTED]
            raise InputError(
                f"{key}: found {pattern!r}, which names no layer that has channels to remove. Nearest: "
                f"{', '.join(near)}{' ...' if len(names) > len(near) else ''}"
            )


def select_channels(network: TracedNetwork, amount: PruneAmount, samples: Samples) -> Selection:
    """Decide which classes stay.

    Args:
        network: the network and its rules.
        amount: how much leaves.
        samples: images, for criteria that look at activations, candidates and sensitivity.

    Raises:
        InputError: the amount cannot be reached within the constraints, a criterion does not apply to a group, or
            there are too few images.
        StageError: a score is not a finite number.

    Cost: that of the criterion; with candidates one evaluation of a pruned network each; with `sensitivity` one for
        each group and ratio.
    """
    scored = score_network(network, samples)
    decision = _Decision(network, scored.scores, samples)
    kept = decision.kept(amount)
    return Selection(kept, {**scored.details, **decision.details}, scored.products)


@dataclass(frozen=True)
class ScoredNetwork:
    """Scores [width] by open group, comparable between groups, and what the criterion found on the way to them."""

    scores: Mapping[str, Tensor]
    details: dict[str, Any]
    products: Products | None = None


def score_network(network: TracedNetwork, samples: Samples) -> ScoredNetwork:
    """Score every class of the open groups by the criterion of the network's rules.

    Raises:
        InputError: the criterion does not apply to a group, or there are too few images.
    """
    rules = network.rules
    row = CRITERIA[rules.criterion]
    data = {"data": samples.training, "gradients": samples.for_loss}.get(row.needs)
    request = ScoreRequest(network.captured, network.open, data, samples.loss, rules.seed)
    scoring = score_channels(rules.criterion, request)
    scores = normalised_scores(scoring.scores, rules.normalise or row.normalisation)
    return ScoredNetwork(scores, {"criterion": {"name": rules.criterion, **scoring.details}}, scoring.products)


def allocation_of(
    network: TracedNetwork, scores: Mapping[str, Tensor], samples: Samples
) -> Allocation | KnapsackAllocation:
    """Return the network's rule for how the loss is spread over its groups; with `sensitivity` it measures them."""
    return _Decision(network, scores, samples).allocation()


class _Decision:
    """One decision from given scores, and what was found on the way to it."""

    def __init__(self, network: TracedNetwork, scores: Mapping[str, Tensor], samples: Samples) -> None:
        self.network, self.scores, self.samples = network, scores, samples
        self.details: dict[str, Any] = {}

    def kept(self, amount: PruneAmount) -> Kept:
        if self.network.rules.allocation == "rates":
            return explicit_rates(self.scores, amount.rates, self.network.constraints)
        allocation = self.allocation()
        if self.network.rules.candidates:
            return self._best_candidate(allocation, *self._target(amount))
        if amount.cost or isinstance(allocation, KnapsackAllocation):
            return allocation.at_cost(*self._target(amount)).kept
        return allocation.at_ratio(amount.ratio or 0)

    def allocation(self) -> Allocation | KnapsackAllocation:
        match self.network.rules.allocation:
            case "uniform":
                return uniform_allocation(self.scores, self.network.constraints)
            case "isomorphic":
                return isomorphic_allocation(self.scores, self.network.constraints, self.network.graph)
            case "sensitivity":
                return global_allocation(self.scores, self._within_sensitivity())
            case "knapsack":
                return KnapsackAllocation(self.scores, self.network.constraints)
            case _:
                return global_allocation(self.scores, self.network.constraints)

    def _target(self, amount: PruneAmount) -> tuple[CostModel, float]:
        """Return the cost to reach; a ratio is a number of channels."""
        if amount.cost:
            name, cost = amount.cost
            return self.network.cost_model(name), cost
        model = self.network.channels_model()
        return model, (1 - (amount.ratio or 0)) * model.cost({})

    def _within_sensitivity(self) -> Constraints:
        tolerance = self.network.rules.tolerance
        curves = sensitivity(self.scores, _SENSITIVITY_RATIOS, self.network.constraints, self._score)
        whole = abs(next(iter(next(iter(curves.values())).values()))) if curves else 0.0
        found = ratio_limits(curves, tolerance if self.samples.is_share else tolerance * whole)
        self.details["sensitivity"] = {
            name: {"widths": list(curve), "accuracy": list(curve.values()), "limit": found[name]}
            for name, curve in curves.items()
        }
        return self.network.constraints.limited(found)

    def _best_candidate(self, allocation: Allocation | KnapsackAllocation, model: CostModel, target: float) -> Kept:
        rules = self.network.rules
        planned = allocation.at_cost(model, target)
        value = self._renewed_score(planned.kept)
        drawn = judged_candidates(
            self.scores,
            self.network.constraints,
            model,
            target,
            self._renewed_score,
            count=rules.candidates,
            seed=rules.seed,
        )
        self.details["candidates"] = {
            "planned": value,
            "drawn": [candidate.value for candidate in drawn],
            "chosen": "planned" if value >= drawn[0].value else "drawn",
        }
        return planned.kept if value >= drawn[0].value else drawn[0].reached.kept

    def _score(self, kept: Kept) -> float:
        return self._judged(kept, renew=False)

    def _renewed_score(self, kept: Kept) -> float:
        return self._judged(kept, renew=True)

    def _judged(self, kept: Kept, *, renew: bool) -> float:
        """Return the score of the network that keeps these channels: rewritten from the graph, not certified."""
        captured, graph = self.network.captured, self.network.graph
        if graph.walk is None:
            raise InputError("The graph has no walk: expected what trace() returned.")
        return self.samples.score(rewrite_module(captured, graph.walk, plan_for(graph, kept)), renew=renew)
