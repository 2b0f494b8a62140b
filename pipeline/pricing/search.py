"""The search for a state whose file takes a given time: damage on one side, the priced network on the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.compress.pruning.allocation import best_classes
from pipeline.compress.pruning.allocation.damage import Choices, damage_curves
from pipeline.compress.pruning.allocation.knapsack import adjusted_plan, least_cost, least_damage
from pipeline.compress.pruning.cost import macs_model
from pipeline.compress.pruning.damage import DamageMeter, groups_inside
from pipeline.compress.pruning.selection import allocation_of, score_network
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError, UnreachableError
from pipeline.measure.devices import open_device
from pipeline.network.tracing import samples_of
from pipeline.precision.config import QuantizationConfig
from pipeline.pricing.floor import floor_of
from pipeline.pricing.greedy import Measures, greedy_descent
from pipeline.pricing.interactions import price_together
from pipeline.pricing.loop import AIM, meet_target, nearest_step
from pipeline.pricing.making import FileMaker
from pipeline.pricing.model import LatencyModel
from pipeline.pricing.moves import Moved, bought_nothing, told_moves, without_each_move, without_moves
from pipeline.pricing.pricer import PricedNetwork, Pricer
from pipeline.pricing.probes import Probe
from pipeline.pricing.relative import RelativeModel, merged
from pipeline.pricing.template import infer_template
from pipeline.pricing.timing import FileTimer
from pipeline.pricing.widths import NoTemplateError
from pipeline.results.latency_target import (
    AskedLatency,
    Correction,
    CostModelFacts,
    LatencyFloor,
    LatencyTarget,
    LayerTimes,
    NearestLatencies,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.pruning.allocation import Kept
    from pipeline.compress.pruning.depth import ResidualBlock
    from pipeline.compress.pruning.samples import Samples
    from pipeline.compress.pruning.selection import TracedNetwork
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.pricing.aim import LatencyAim
    from pipeline.pricing.loop import LoopResult
    from pipeline.pricing.making import ShippedPrecision
    from pipeline.pricing.relative import TimeModel
    from pipeline.pricing.timing import PairedRatio
    from pipeline.results.run import Interval

#: Where probe files lie while they are timed.
PROBES = "probes"
#: What a group or block costs at least, as a fraction of the median damage: a loss that was too small to be seen.
_UNSEEN = 0.02
_LEAST = 1e-6
#: Most training samples on which the loss of a state is measured.
LOSS_SAMPLES = 256
#: What a message advises, over the predicted floor.
_ABOVE_FLOOR = 1.03


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


@dataclass(frozen=True)
class ChosenState:
    """Kept classes by group, dropped blocks, what was found on the way, and what a report tells (plain JSON)."""

    kept: Kept
    dropped: frozenset[str]
    details: dict[str, Any]
    told: dict[str, Any] | None = None


def price_network(step: PricedStep, given: Artifact, context: Context, aim: LatencyAim, *, name: str) -> Pricer:
    """Return the pricer of a network; probing begins when it is asked for its model.

    Raises:
        InputError: nothing may leave, or a file of the network cannot be made.
        DeviceError: the target's device cannot be reached.
    """
    if not step.blocks and all(len(grid) < 2 for grid in step.grids.values()):  # noqa: PLR2004 - one width is no choice
        raise InputError(
            "target: no latency but that of the whole network can be reached: of the moves "
            f"{', '.join(aim.moves)} none is left with these keep, floor and align. Shorten keep, lower floor or "
            "align, or allow other moves"
        )
    context.progress.update(0, 1, "exporting the network at some widths")
    make = _maker(step, given, context, aim)
    graph = step.network.graph
    groups = {group.name: group.width for group in graph.groups}
    template = None
    try:
        template = infer_template(make.at_widths, graph, step.grids, [*step.blocks.values()])
    except NoTemplateError as error:
        context.progress.note(f"real files are timed, without blocks as moves, since the file has no template: {error}")
    network = PricedNetwork(
        name=name,
        precision=aim.file,
        groups=groups,
        grids=step.grids,
        droppable=tuple(step.blocks) if template else (),
        inside=groups_inside(graph, [*step.blocks.values()]),
        macs=macs_model(graph),
        make=make,
        template=template,
    )
    target = context.target
    device = None if target.device == "local" else open_device(target.device)
    shapes = context.task().first_shapes(target.batch)
    return Pricer(
        network,
        FileTimer(target, shapes, context.seed, device, context.progress),
        context.folder / PROBES,
        context.seed,
    )


def _maker(step: PricedStep, given: Artifact, context: Context, aim: LatencyAim) -> FileMaker:
    file = aim.file
    quantization = QuantizationConfig.model_validate(
        {"per_channel": file.per_channel, "symmetric": file.symmetric, "keep": file.keep}
        | ({"scheme": file.scheme} if file.scheme else {})
    )
    return FileMaker(
        step.network.captured,
        step.network.graph,
        step.model,
        given,
        context,
        precision=cast("ShippedPrecision", file.precision),
        quantization=quantization,
    )


def head_groups(network: TracedNetwork) -> frozenset[str]:
    """Return the groups of a network whose classes are whole attention heads."""
    groups = network.graph.groups if network.rules.heads else ()
    return frozenset(
        group.name
        for group in groups
        if min((each.positions.shape[1] for each in group.members if not each.consumes), default=1) > 1
    )


class SearchRules(Protocol):
    """What a search wants to know of the stage: how many samples of each split it looks at, in what batches."""

    @property
    def images(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102


class LatencySearch:
    """A priced network and the latency that is asked for, as a `factor` of the whole file's time."""

    def __init__(self, aim: LatencyAim, pricer: Pricer) -> None:
        """Price the network.

        Raises:
            InputError: the latency is not below that of the whole network, or below what any state takes.
            DeviceError: the device cannot be reached, went away, or is throttled; what was measured is kept.
        """
        self.aim, self.pricer = aim, pricer
        self.model: TimeModel = pricer.model()
        self.trusted = isinstance(self.model, LatencyModel) and self.model.coefficients.is_trusted
        self.whole_ms = self.model.cost({})
        self._measured: list[Probe] = []
        self.whole = pricer.profile.whole if aim.milliseconds is None else pricer.whole_now()
        self.factor = aim.budget_ms(self.whole.value) / self.whole.value
        self.floor = self._floor()
        self._require_reachable()

    def choose(
        self, step: PricedStep, part: float, *, given: Artifact, context: Context, job: SearchRules, final: bool
    ) -> ChosenState:
        """Choose what stays so that the file takes `part` of the whole network's time; the `final` one is measured.

        Raises:
            InputError: there are no such widths, the criterion does not apply, or there are too few images.
            StageError: a score or a loss is not a finite number.
            DeviceError: the device went away, or is throttled.
        """
        movable = self.pricer.network.droppable  # none where files have no template
        step = replace(step, blocks={name: block for name, block in step.blocks.items() if name in movable})
        choice = _Choice(self, step, samples_of(step.network.captured, context, job.images, job.batch), context)
        if not final:
            state = choice.state_at(AIM * part, None)
            return ChosenState(choice.kept(state), state.dropped, choice.details)
        make = self.pricer.network.make if step.base == NetworkState() else _maker(step, given, context, self.aim)

        def measured(state: NetworkState) -> Interval:
            context.progress.update(0, 1, "measuring the file that would ship")
            found = self.pricer.ratio(make(state))
            self._learn(merged(step.base, state), found)
            return found.ratio

        if self._needs_greedy(step):
            context.progress.note("the model of times is too far off for this network: moves are measured one by one")
            found = self._descended(part, choice, measured)
        else:
            found = meet_target(part, choice.state_at, choice.share, measured)
        found, undone, gains = self._tidied(found, part, choice, measured)
        state = found.chosen.state
        told = self._told(found, choice, gains, undone)
        return ChosenState(choice.kept(state), state.dropped, choice.details, told.model_dump(mode="json"))

    def _needs_greedy(self, step: PricedStep) -> bool:
        """Say whether moves have to be measured one by one; without a template that would take hours."""
        return not self.trusted and bool(self.pricer.network.template) and step.network.rules.allocation == "knapsack"

    def _descended(self, part: float, choice: _Choice, measured: Callable[[NetworkState], Interval]) -> LoopResult:
        """Take measured moves until the target is met; where they go too far, look near where they have led."""
        base, pricer = choice.step.base, self.pricer

        def gains(state: NetworkState, others: Mapping[str, NetworkState]) -> Mapping[str, PairedRatio]:
            return pricer.gains(merged(base, state), {name: merged(base, other) for name, other in others.items()})

        now = 1.0 if base == NetworkState() else pricer.ratio(pricer.network.file_at(base)).ratio.value
        choices = choice.choices_at(AIM * part * self.whole_ms)
        found = greedy_descent(part, now, choices, choice.model, Measures(gains, measured))
        if found.met:
            return found
        near = meet_target(part, choice.state_at, choice.share, measured, start=found.chosen.state)
        steps = (*found.steps, *near.steps)
        return replace(near, steps=steps) if near.met else nearest_step(part, steps)

    def _tidied(
        self, found: LoopResult, part: float, choice: _Choice, measured: Callable[[NetworkState], Interval]
    ) -> tuple[LoopResult, tuple[str, ...], Mapping[str, PairedRatio]]:
        """Look again without the moves that have bought nothing, unless the target can only be met with them."""
        if self.pricer.network.template is None or choice.step.network.rules.allocation != "knapsack":
            return found, (), {}
        state = self._merged(choice.step.base, found.chosen.state)
        names = {*found.chosen.state.widths, *found.chosen.state.dropped}
        others = {name: other for name, other in without_each_move(state).items() if name in names}
        gains = self.pricer.gains(state, others)
        useless = bought_nothing(gains)
        if not useless or not self.trusted:
            return found, (), gains
        before = choice.without(useless)
        again = meet_target(
            part, choice.state_at, choice.share, measured, start=without_moves(found.chosen.state, useless)
        )
        steps, old, new = (*found.steps, *again.steps), found.chosen.state.widths, again.chosen.state.widths
        if found.met and not again.met:
            choice.use(before)
            return replace(found, steps=steps), (), gains
        still = {name: gain for name, gain in gains.items() if old.get(name) == new.get(name)}
        return replace(again, steps=steps), tuple(useless), still

    def _merged(self, base: NetworkState, state: NetworkState) -> NetworkState:
        """Return a state of the whole network, without the widths of groups that have left with their block."""
        both = merged(base, state)
        gone = {group for block in both.dropped for group in self.pricer.network.inside[block]}
        return NetworkState({name: width for name, width in both.widths.items() if name not in gone}, both.dropped)

    def _learn(self, state: NetworkState, found: PairedRatio) -> None:
        """Fit the model again, with a file that was measured for longer than probes are."""
        self._measured.append(Probe(state, found.log.centre, found.log.error))
        self.model = self.pricer.model_with(self._measured, self.model)

    def _floor(self) -> LatencyFloor:
        """Return the least that is predicted, or was measured where predictions cannot be trusted."""
        found = self._predicted_floor()
        measured = min((math.exp(probe.log_ratio) for probe in self.pricer.profile.probes), default=1.0)
        return found if self.trusted or found.factor < measured else found.model_copy(update={"factor": measured})

    def _predicted_floor(self) -> LatencyFloor:
        network, model = self.pricer.network, self.model
        if isinstance(model, LatencyModel):
            floor = floor_of(model, network.grids, network.droppable)
            why = ", ".join(f"{name} {ms:.3g} ms" for name, ms in floor.parts.items() if ms > 0)
            return LatencyFloor(factor=floor.ms / self.whole_ms, why=why)
        least = model.cost({name: grid[0] for name, grid in network.grids.items()})
        return LatencyFloor(factor=least / self.whole_ms, why="every group at its narrowest")

    def _require_reachable(self) -> None:
        """Raise UnreachableError where no state takes that little, or the whole network does already."""
        whole, aim = self.whole.value, self.aim
        if self.factor >= 1:
            raise UnreachableError(
                f"target: the unpruned network's file in {aim.file} takes {whole:.3g} ms already, found "
                f"{aim.milliseconds:g}ms, allowed: less than that"
            )
        if self.floor.factor > self.factor:
            least, moves = self.floor.factor, ", ".join(aim.moves)
            raise UnreachableError(
                f"target: {self.factor:.3g}x of the unpruned network's file in {aim.file} "
                f"({self.factor * whole:.3g} of {whole:.3g} ms) cannot be reached with moves {moves}: about "
                f"{least:.3g}x ({least * whole:.3g} ms) is left at the least: {self.floor.why}. Ask for "
                f"{least * _ABOVE_FLOOR:.3f}x or more, lower floor, or allow more moves"
            )

    def _told(
        self, found: LoopResult, choice: _Choice, gains: Mapping[str, PairedRatio], undone: tuple[str, ...]
    ) -> LatencyTarget:
        """Return what a report tells."""
        pricer, target, aim = self.pricer, self.pricer.timer.target, self.aim
        state = self._merged(choice.step.base, found.chosen.state)
        nearest = NearestLatencies(below=found.below, above=found.above)
        damage = choice.damage_of(found.chosen.state)
        return LatencyTarget(
            runtime=target.runtime,
            device=target.device,
            threads=target.threads,
            precision=str(aim.file),
            asked=AskedLatency(factor=aim.factor, milliseconds=aim.milliseconds),
            whole_ms=self.whole,
            ratio=found.chosen.measured,
            predicted=found.chosen.predicted,
            met=found.met,
            nearest=None if found.met else nearest,
            floor=self.floor,
            model=self._facts(),
            layers=self._layers(state),
            moves=told_moves(Moved(state, pricer.network.groups, choice.heads), self.model, gains, damage),
            undone=undone,
            corrections=tuple(
                Correction(predicted=step.predicted, measured=step.measured.value) for step in found.steps
            ),
        )

    def _facts(self) -> CostModelFacts:
        profile, model = self.pricer.profile, self.model
        if not isinstance(model, LatencyModel):
            return CostModelFacts(
                probes=len(profile.probes), median_error=1.0, p90_error=1.0, trusted=False, seconds=profile.seconds
            )
        known = model.coefficients
        return CostModelFacts(
            probes=len(profile.probes),
            median_error=known.median_error,
            p90_error=known.p90_error,
            trusted=self.trusted,
            seconds=profile.seconds,
            granules={name: granule.size for name, granule in known.granules.items() if granule.seen},
        )

    def _layers(self, state: NetworkState) -> tuple[LayerTimes, ...]:
        model = self.model
        if not isinstance(model, LatencyModel):
            return ()
        operators = {feature.node: feature.operator for feature in model.features}
        gone = {node.name for node in model.nodes if node.blocks & state.dropped}
        before, after = model.node_times(), model.node_times(state)
        return tuple(
            LayerTimes(
                name=name, operator=operators[name], before_ms=ms, after_ms=None if name in gone else after[name]
            )
            for name, ms in sorted(before.items(), key=lambda item: -item[1])
        )


class _Choice:
    """One choice of a state: scores and damage of what is left, taken once, for any number of targets."""

    def __init__(self, search: LatencySearch, step: PricedStep, samples: Samples, context: Context) -> None:
        self.step, self.context, self._samples = step, context, samples
        self._search, self._whole_ms = search, search.whole_ms
        self.details: dict[str, Any] = {}
        self._scores: Mapping[str, Tensor] = {}
        self._choices: Choices | None = None
        if step.grids:
            context.progress.update(0, 1, f"scoring channels by {step.network.rules.criterion}")
            scored = score_network(step.network, samples)
            self._scores, self.details = scored.scores, dict(scored.details)

    @property
    def _few(self) -> Samples:
        """The samples on which losses are measured, dozens of times."""
        there = self.context.task().count("train")
        return replace(self._samples, images=min(self._samples.images, LOSS_SAMPLES, there))

    @property
    def model(self) -> RelativeModel:
        """What is known of times now."""
        return RelativeModel(self._search.model, self.step.base)

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
        found = meter.measured(
            self._scores,
            step.grids,
            list(step.blocks.values()),
            self.context.progress.update,
        )
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
