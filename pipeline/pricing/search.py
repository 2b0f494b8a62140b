"""The search for a state whose file takes a given time: damage on one side, the priced network on the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import UnreachableError
from pipeline.core.file_precision import FLOAT
from pipeline.network.tracing import samples_of
from pipeline.onnx_graph.file import write_onnx
from pipeline.pricing.choice import StateChoice
from pipeline.pricing.coarse import CoarseModel
from pipeline.pricing.floor import floor_of
from pipeline.pricing.greedy import Measures, greedy_descent
from pipeline.pricing.loop import AIM, confirmed_ratio, meet_target, nearest_step
from pipeline.pricing.model import LatencyModel
from pipeline.pricing.moves import Moved, bought_nothing, told_moves, without_each_move, without_moves
from pipeline.pricing.opening import asked_share, file_maker
from pipeline.pricing.probes import Probe
from pipeline.pricing.relative import merged
from pipeline.pricing.sizes import counted_from_given, size_move
from pipeline.results.latency_target import (
    CostModelFacts,
    LatencyFloor,
    LatencyTarget,
    LayerTimes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.compress.pruning.allocation import Kept
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.pricing.aim import LatencyAim
    from pipeline.pricing.choice import PricedStep
    from pipeline.pricing.loop import LoopResult
    from pipeline.pricing.opening import SmallerImage
    from pipeline.pricing.pricer import Pricer
    from pipeline.pricing.relative import TimeModel
    from pipeline.pricing.timing import PairedRatio
    from pipeline.results.run import Interval

#: What a message advises, over the predicted floor.
_ABOVE_FLOOR = 1.03


@dataclass(frozen=True)
class ChosenState:
    """Kept classes by group, dropped blocks, what was found on the way, and what a report tells (plain JSON)."""

    kept: Kept
    dropped: frozenset[str]
    details: dict[str, Any]
    told: dict[str, Any] | None = None


class SearchRules(Protocol):
    """What a search wants to know of the stage: how many samples of each split it looks at, in what batches."""

    @property
    def images(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102


class LatencySearch:
    """A priced network and the latency that is asked for, as a `factor` of the whole file's time.

    With smaller images than it was given, the target and what is measured count from the whole file at the given size;
    the model and `factor` are those of the network as it is priced.
    """

    def __init__(
        self, aim: LatencyAim, pricer: Pricer, smaller: SmallerImage | None = None, *, from_original: bool = False
    ) -> None:
        """Price the network; `from_original`: it is the one that the recipe starts from, whose float file is timed too.

        Raises:
            InputError: the latency is not below that of the whole network.
            DeviceError: the device cannot be reached, went away, or is throttled; what was measured is kept.
        """
        self.aim, self.pricer, self.smaller, self.from_original = aim, pricer, smaller, from_original
        self.model: TimeModel = pricer.model()
        self.trusted = isinstance(self.model, LatencyModel) and self.model.coefficients.is_trusted
        self.whole_ms = self.model.cost({})
        self._measured: list[Probe] = []
        self._given: Path | None = None  # the whole network's file at the size that it was given
        self.whole, self.factor = pricer.profile.whole, 1.0
        if smaller is None:
            self.whole, self.factor = asked_share(aim, pricer)
        else:
            self.factor = smaller.found.left
        self.floor = self._floor()

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
        choice = StateChoice(
            lambda: self.model, step, samples_of(step.network.captured, context, job.images, job.batch), context
        )
        if not final:
            state = choice.state_at(AIM * part, None)
            return ChosenState(choice.kept(state), state.dropped, choice.details)
        make = self.pricer.network.make if step.base == NetworkState() else file_maker(step, given, context, self.aim)

        def measured(state: NetworkState) -> Interval:
            context.progress.update(0, 1, "measuring the file that would ship")
            file = make(state)
            found = confirmed_ratio(part, lambda: self._ratio(file))
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
        if self.smaller:
            told = self._counted_from_given(told, self.smaller, make(state), self._merged(step.base, state))
        told = self._with_float(told)
        return ChosenState(choice.kept(state), state.dropped, choice.details, told.model_dump(mode="json"))

    def _ratio(self, model: ModelProto) -> PairedRatio:
        """Measure a file as a share of the whole one's at this size; with smaller images against that at the given."""
        if self.smaller is None:
            return self.pricer.ratio(model)
        if self._given is None:
            self._given = self.pricer.folder / "given.onnx"
            write_onnx(self.smaller.make(NetworkState()), self._given)
        measured = self.pricer.ratio(model, self._given)
        return measured.times(1 / self.smaller.found.ratio.value)

    def _counted_from_given(
        self, told: LatencyTarget, smaller: SmallerImage, model: ModelProto, state: NetworkState
    ) -> LatencyTarget:
        """Return the record with shares of the whole file at the given size, and what smaller images have bought."""
        self.pricer.progress.update(0, 1, "measuring what smaller images have bought")
        file = self.pricer.folder / "chosen.onnx"
        write_onnx(model, file)
        bought = self.pricer.ratio(smaller.make(state), file)
        now_ms = told.ratio.value * smaller.found.ratio.value * smaller.found.whole.value
        return counted_from_given(told, smaller.found, size_move(smaller.found, smaller.name, now_ms, bought))

    def _needs_greedy(self, step: PricedStep) -> bool:
        """Say whether moves have to be measured one by one; without a template that would take hours."""
        return not self.trusted and bool(self.pricer.network.template) and step.network.rules.allocation == "knapsack"

    def _descended(self, part: float, choice: StateChoice, measured: Callable[[NetworkState], Interval]) -> LoopResult:
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
        self, found: LoopResult, part: float, choice: StateChoice, measured: Callable[[NetworkState], Interval]
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
        nearest = nearest_step(part, (found.chosen, again.chosen)).chosen
        if not again.met and (found.met or nearest is found.chosen):
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
        measured = min((math.exp(probe.log_ratio) for probe in self.pricer.probes), default=1.0)
        return found if self.trusted or found.factor < measured else found.model_copy(update={"factor": measured})

    def _predicted_floor(self) -> LatencyFloor:
        network, model = self.pricer.network, self.model
        if isinstance(model, LatencyModel):
            floor = floor_of(model, network.grids, network.droppable)
            why = ", ".join(f"{name} {ms:.3g} ms" for name, ms in floor.parts.items() if ms > 0)
            return LatencyFloor(factor=floor.ms / self.whole_ms, why=why)
        least = model.cost({name: grid[0] for name, grid in network.grids.items()})
        return LatencyFloor(factor=least / self.whole_ms, why="every group at its narrowest")

    @property
    def reachable(self) -> bool:
        """Whether some state takes that little."""
        return self.floor.factor <= self.factor

    def require_reachable(self) -> None:
        """Raise UnreachableError where no state takes that little."""
        whole, aim = self.whole.value, self.aim
        if not self.reachable:
            least, moves = self.floor.factor, ", ".join(aim.moves)
            raise UnreachableError(
                f"target: {self.factor:.3g}x of the unpruned network's file in {aim.file} "
                f"({self.factor * whole:.3g} of {whole:.3g} ms) cannot be reached with moves {moves}: about "
                f"{least:.3g}x ({least * whole:.3g} ms) is left at the least: {self.floor.why}. Ask for "
                f"{least * _ABOVE_FLOOR:.3f}x or more, lower floor, or allow more moves"
            )

    def _told(
        self, found: LoopResult, choice: StateChoice, gains: Mapping[str, PairedRatio], undone: tuple[str, ...]
    ) -> LatencyTarget:
        """Return what a report tells."""
        pricer = self.pricer
        state = self._merged(choice.step.base, found.chosen.state)
        damage = choice.damage_of(found.chosen.state)
        return LatencyTarget(
            **self.aim.terms(pricer.timer.target),
            **found.terms(),
            whole_ms=self.whole,
            floor=self.floor,
            model=self._facts(),
            layers=self._layers(state),
            moves=told_moves(Moved(state, pricer.network.groups, choice.heads), self.model, gains, damage),
            undone=undone,
        )

    def _with_float(self, told: LatencyTarget) -> LatencyTarget:
        """Return the record with the milliseconds of the recipe's own network as a float file, measured."""
        if not self.from_original:
            return told
        if self.aim.file.precision == FLOAT:
            return told.model_copy(update={"whole_float_ms": told.whole_ms})
        self.pricer.progress.update(0, 1, "measuring the float file")
        make, whole = (self.smaller.make, self._given) if self.smaller else (self.pricer.network.make, None)
        ratio = self.pricer.ratio(make.in_precision("fp32")(NetworkState()), whole).ratio
        return told.model_copy(update={"whole_float_ms": ratio.times(told.whole_ms.value)})

    def _facts(self) -> CostModelFacts:
        profile, model = self.pricer.profile, self.model
        probes = len(self.pricer.probes)
        if not isinstance(model, LatencyModel):
            errors = model.errors if isinstance(model, CoarseModel) else (1.0,)
            median, p90 = (float(np.quantile(errors, share)) for share in (0.5, 0.9))
            return CostModelFacts(
                probes=probes, median_error=median, p90_error=p90, trusted=False, seconds=profile.seconds
            )
        known = model.coefficients
        return CostModelFacts(
            probes=probes,
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
