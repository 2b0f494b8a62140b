"""The choice of a state: which widths and blocks to take for a time, by the damage that each does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.compress.pruning.allocation import best_classes
from pipeline.compress.pruning.allocation.damage import Choices, damage_curves
from pipeline.compress.pruning.allocation.knapsack import adjusted_plan, least_cost, least_damage
from pipeline.compress.pruning.damage import DamageMeter, groups_inside
from pipeline.compress.pruning.selection import allocation_of, score_network
from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.interactions import price_together
from pipeline.pricing.kept_damage import measured_or_kept
from pipeline.pricing.relative import RelativeModel

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.pruning.allocation import Kept
    from pipeline.compress.pruning.depth import ResidualBlock
    from pipeline.compress.pruning.samples import Samples
    from pipeline.compress.pruning.selection import TracedNetwork
    from pipeline.core.stage import Context
    from pipeline.pricing.relative import TimeModel

#: What a group or block costs at least, as a fraction of the median damage: a loss that was too small to be seen.
_UNSEEN = 0.02
_LEAST = 1e-6
#: Most training samples on which the loss of a state is measured.
LOSS_SAMPLES = 256


@dataclass(frozen=True)
class PricedStep:
    """What is left of the given network, and what may still leave.

    Attributes:
        model: the network.
        network: what the engine sees in it.
        grids: the widths that each open group may have, ascending, the present one last.
        blocks: the residual blocks that may leave, by their names in the given network.
        base: what has left of the given network already.
    """

    model: nn.Module
    network: TracedNetwork
    grids: Mapping[str, Sequence[int]]
    blocks: Mapping[str, ResidualBlock]
    base: NetworkState

    @property
    def movable(self) -> bool:
        """Whether anything of it may leave."""
        return bool(self.blocks) or any(len(grid) > 1 for grid in self.grids.values())


def few_samples(samples: Samples, context: Context) -> Samples:
    """Return the samples on which losses are measured, dozens of times."""
    return replace(samples, images=min(samples.images, LOSS_SAMPLES, context.task().count("train")))


def head_groups(network: TracedNetwork) -> frozenset[str]:
    """Return the groups of a network whose classes are whole attention heads."""
    groups = network.graph.groups if network.rules.heads else ()
    return frozenset(
        group.name
        for group in groups
        if min((each.positions.shape[1] for each in group.members if not each.consumes), default=1) > 1
    )


class StateChoice:
    """One choice of a state: scores and damage of what is left, taken once, for any number of targets."""

    def __init__(self, model: Callable[[], TimeModel], step: PricedStep, samples: Samples, context: Context) -> None:
        """Score the channels; `model` gives what is known of times whenever it is asked."""
        self.step, self.context, self._samples = step, context, samples
        self._model, self._whole_ms = model, model().cost({})
        self.details: dict[str, Any] = {}
        self._scores: Mapping[str, Tensor] = {}
        self._choices: Choices | None = None
        if step.grids:
            context.progress.update(0, 1, f"scoring channels by {step.network.rules.criterion}")
            scored = score_network(step.network, samples)
            self._scores, self.details = scored.scores, dict(scored.details)

    @property
    def _few(self) -> Samples:
        return few_samples(self._samples, self.context)

    @property
    def model(self) -> RelativeModel:
        """What is known of times now."""
        return RelativeModel(self._model(), self.step.base)

    @property
    def heads(self) -> frozenset[str]:
        """The groups whose classes are whole attention heads."""
        return head_groups(self.step.network)

    def state_at(self, share: float, near: NetworkState | None) -> NetworkState:
        """Return the state to take when this share of the whole file's time may be spent; one near another."""
        target = share * self._whole_ms
        if self.step.network.rules.allocation == "knapsack":
            choices = self.choices_at(target)
            if near:
                return adjusted_plan(choices, self.model, near, target).state
            return least_damage(choices, self.model, max(target, least_cost(choices, self.model))).state
        if self.model.cost({}) <= target:
            return NetworkState()
        target = max(target, self.model.cost({name: grid[0] for name, grid in self.step.grids.items()}))
        kept = allocation_of(self.step.network, self._scores, self._samples).at_cost(self.model, target).kept
        narrower = {name: len(each) for name, each in kept.items() if len(each) < len(self._scores[name])}
        return NetworkState(narrower)

    def choices_at(self, target: float) -> Choices:
        """Return the damages; at the first target in ms that is asked for, they are measured."""
        if self._choices is None:
            self._choices = self._priced_together(target)
        return self._choices

    def without(self, moves: Collection[str]) -> Choices | None:
        """Leave these groups whole and these blocks in from now on; return what could be chosen before."""
        before = self._choices
        if before:
            grids = {name: grid[-1:] if name in moves else grid for name, grid in before.grids.items()}
            damage = {name: curve[-1:] if name in moves else curve for name, curve in before.damage.items()}
            blocks = {name: price for name, price in before.blocks.items() if name not in moves}
            self._choices = replace(before, grids=grids, damage=damage, blocks=blocks)
        return before

    def use(self, choices: Choices | None) -> None:
        """Choose from these again."""
        self._choices = choices

    def share(self, state: NetworkState) -> float:
        """Return the predicted time of a state as a fraction of the whole file's."""
        return self.model.cost(state.widths, state.dropped) / self._whole_ms

    def kept(self, state: NetworkState) -> Kept:
        """Return the classes that stay of the groups that get narrower."""
        return best_classes(self._scores, state.widths)

    def damage_of(self, state: NetworkState) -> dict[str, float]:
        """Return what each move of a state was expected to cost; nothing where no damage was measured."""
        choices = self._choices
        if choices is None:
            return {}
        lost = {
            name: float(choices.damage[name][list(choices.grids[name]).index(width)])
            for name, width in state.widths.items()
        }
        return lost | {name: choices.blocks[name] for name in state.dropped}

    def _priced_together(self, target: float) -> Choices:
        """Return damages by which the search finds the plan of least measured loss at this target in ms."""
        alone = self._priced_alone()
        graph = self.step.network.graph
        meter = DamageMeter(self.step.network.captured, graph, self._few)

        def loss(state: NetworkState) -> float:
            return meter.loss(self.kept(state), [self.step.blocks[name] for name in sorted(state.dropped)])

        def solve(choices: Choices) -> NetworkState:
            return least_damage(choices, self.model, max(target, least), evaluations=0).state

        least = least_cost(alone, self.model)
        found, losses = price_together(
            alone, solve, loss, seed=self.step.network.rules.seed, told=self.context.progress.update
        )
        self.details["damage"]["plans"] = losses
        return found

    def _priced_alone(self) -> Choices:
        """Scores scaled to one measured loss for each group, and the measured loss of each block."""
        step = self.step
        meter = DamageMeter(step.network.captured, step.network.graph, self._few)
        told = self.context.progress.update
        found = measured_or_kept(meter, self._scores, step.grids, list(step.blocks.values()), told)
        by_name = {block.name: name for name, block in step.blocks.items()}
        seen = [loss for loss in (*(loss for _, loss in found.groups.values()), *found.blocks.values()) if loss > 0]
        least = max(_LEAST, _UNSEEN * sorted(seen)[len(seen) // 2] if seen else 0.0)
        measured = {name: (width, max(loss, least)) for name, (width, loss) in found.groups.items()}
        self.details["damage"] = {
            "loss": found.whole,
            "groups": {name: {"width": width, "damage": loss} for name, (width, loss) in found.groups.items()},
            "blocks": {by_name[name]: loss for name, loss in found.blocks.items()},
        }
        inside = groups_inside(step.network.graph, [*step.blocks.values()])
        return Choices(
            grids=step.grids,
            damage=damage_curves(self._scores, step.grids, measured),
            blocks={by_name[name]: max(loss, least) for name, loss in found.blocks.items()},
            inside={by_name[name]: groups for name, groups in inside.items()},
        )
