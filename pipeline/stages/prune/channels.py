"""Pruning of an artifact: all at once, or with training between the removals or while channels are still there."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pipeline.compress.pruning.allocation import remaining_schedule
from pipeline.compress.pruning.allocation.target import TOLERANCE
from pipeline.compress.pruning.depth import residual_blocks
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.importance.reconstruction import rescale_consumers
from pipeline.compress.pruning.prune import prune_channels
from pipeline.compress.pruning.selection import (
    PruneAmount,
    Selection,
    SelectionRules,
    TracedNetwork,
    select_channels,
    settings_by_group,
    traced_network,
)
from pipeline.compress.pruning.soft import SoftPruning
from pipeline.compress.training.seeds import epoch_seed
from pipeline.core.errors import InputError, StageError
from pipeline.core.runtimes import FORMS
from pipeline.network.phases import Phases
from pipeline.network.stored import load_network, write_network
from pipeline.network.tracing import example_of, samples_of
from pipeline.network.training import epoch_history, make_training, train_artifact
from pipeline.stages.prune.record import changed, frozen_layers, kept_whole, listed, removal_record, widths_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from pipeline.compress.names import StatisticsRule
    from pipeline.compress.pruning.allocation import Kept
    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.selection import CostName
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.network.phases import Record
    from pipeline.network.training_config import PruneSchedule
    from pipeline.pricing.aim import LatencyAim

#: The phases of a schedule, in the stage's folder.
PHASES = "phases"


@dataclass(frozen=True)
class PruneTarget:
    """How much leaves: a fraction of the channels, all but a fraction of a cost, fractions by pattern, or a latency."""

    ratio: float | None
    target: tuple[CostName, float] | None
    rates: Mapping[str, float]
    latency: LatencyAim | None = None


@dataclass(frozen=True)
class PruneRequest:
    """One pruning as a recipe asks for it.

    Attributes:
        rules: what decides which channels leave.
        aim: how many leave.
        statistics: whether channels may leave over which the network takes statistics.
        images: images of each split that criteria and candidates look at.
        batch: images in one pass.
        schedule: training between or while channels are removed; None: all leave at once.
    """

    rules: SelectionRules
    aim: PruneTarget
    statistics: StatisticsRule
    images: int
    batch: int
    schedule: PruneSchedule | None


@dataclass(frozen=True)
class TracedModel:
    """A network, and what the engine sees in it."""

    model: nn.Module
    network: TracedNetwork


class Pruning:
    """One run of a job: `run` leaves the pruned artifact's payload in the context's folder."""

    def __init__(self, job: PruneRequest, given: Artifact, context: Context, model: nn.Module | None = None) -> None:
        """Trace the network that is given: that of the artifact, unless it is `model`, which was stored nowhere.

        Raises:
            InputError: it cannot be captured, none of its channels can be removed, or a pattern names no layer.
        """
        self.job, self.given, self.context = job, given, context
        context.progress.update(0, 3, "finding coupled channels")
        model = load_network(given) if model is None else model
        captured, graph = self._graph_of(model)
        if not graph.groups:
            raise InputError(f"No channel of this network can be removed. {listed(frozen_layers(graph))}")
        aims_at_blocks = job.aim.latency and "blocks" in job.aim.latency.moves
        blocks = [block.name for block in residual_blocks(captured)] if aims_at_blocks else ()
        self.start = TracedModel(model, traced_network(captured, graph, job.rules, blocks))
        self.rates = settings_by_group(graph, "rates", job.aim.rates)

    def run(self) -> Record:
        """Prune, and return what changed as plain JSON.

        Raises:
            InputError: the aim cannot be reached, or a criterion does not apply.
            StageError: nothing would be removed, the result is not what it should be, or training diverges.
        """
        folder, schedule = self.context.folder, self.job.schedule
        if schedule is None:
            selection = self._decision()
            self._check_removed([{"widths": _lengths(selection.kept)}])
            return self._changed([self._remove(self.given, folder, self.start, selection)], folder)
        phases = Phases(folder / PHASES, self.given, self.context.progress.note)
        match schedule.method:
            case "iterative":
                records = self._iterative(phases, schedule)
            case "layerwise":
                records = self._layerwise(phases, schedule)
            case "soft":
                records = self._soft(phases, schedule)
        self._check_removed(records)
        found = self._changed(records, phases.latest.folder)
        phases.finish(folder)
        return found

    def _changed(self, records: list[Record], folder: Path) -> Record:
        pruned = load_network(self.given.model_copy(update={"folder": folder}))
        return changed(self.start.model, pruned, self.start.network, records, self.job.aim.target)

    def _iterative(self, phases: Phases, schedule: PruneSchedule) -> list[Record]:
        """Remove a part of the channels and train, again and again."""
        self._check_reachable()
        records = []
        for step in range(schedule.steps):
            label = f"step {step + 1}/{schedule.steps}, "
            records.append(phases.run(partial(self._remove_step, step=step, steps=schedule.steps)))
            records.append(phases.run(partial(self._train, schedule=schedule, step=step, label=label)))
        return records

    def _layerwise(self, phases: Phases, schedule: PruneSchedule) -> list[Record]:
        """Choose all channels on the whole network, then remove group by group in forward order, training after each.

        Source: the schedule of HRank (Lin et al., CVPR 2020), which masks instead: what has left cannot come back.
        """
        decision = phases.run(self._decide)
        widths = self.start.network.widths
        leaving = [(name, kept) for name, kept in decision["kept"].items() if len(kept) < widths[name]]
        records = [decision]
        for step, (name, kept) in enumerate(leaving):
            records.append(phases.run(partial(self._remove_chosen, kept={name: tuple(kept)})))
            label = f"group {step + 1}/{len(leaving)}, "
            records.append(phases.run(partial(self._train, schedule=schedule, step=step, label=label)))
        return records

    def _soft(self, phases: Phases, schedule: PruneSchedule) -> list[Record]:
        """Train with filters set to zero after each epoch, then remove those that were zero in the best one."""
        self._check_reachable()
        trained = phases.run(partial(self._train_softly, schedule=schedule))
        kept = {name: tuple(classes) for name, classes in trained["kept"].items()}
        return [trained, phases.run(partial(self._remove_chosen, kept=kept))]

    def _remove_step(self, given: Artifact, folder: Path, *, step: int, steps: int) -> Record:
        found = self._again(load_network(given), step)
        self.context.progress.update(1, 3, f"scoring channels by {self.job.rules.criterion}")
        return self._remove(given, folder, found, self._select(found.network, step, steps))

    def _remove_chosen(self, given: Artifact, folder: Path, *, kept: Kept) -> Record:
        found = self._again(load_network(given))
        moved = {name for name in kept if found.network.widths.get(name) != self.start.network.widths[name]}
        if moved:
            raise StageError(f"Groups {', '.join(sorted(moved))} have changed their width since they were chosen.")
        return self._remove(given, folder, found, Selection(kept, {}))

    def _decide(self, given: Artifact, folder: Path) -> Record:
        selection = self._decision()
        for name in FORMS["torch"].files:
            shutil.copyfile(given.folder / name, folder / name)
        return {"kept": {name: list(classes) for name, classes in selection.kept.items()}, "found": selection.details}

    def _train(self, given: Artifact, folder: Path, *, schedule: PruneSchedule, step: int, label: str) -> Record:
        seed = epoch_seed(self.context.seed, step)
        training = make_training(schedule, load_network(given), self.context, given=given, seed=seed)
        train_artifact(training, given, folder, self.context.progress, label=label)
        return {"epoch": training.best_epoch, "history": epoch_history(training)}

    def _train_softly(self, given: Artifact, folder: Path, *, schedule: PruneSchedule) -> Record:
        softly = SoftPruning(self.start.network.graph.groups, self._chooser())
        training = make_training(
            schedule, load_network(given), self.context, given=given, seed=self.context.seed, regulariser=softly
        )
        model = train_artifact(training, given, folder, self.context.progress)
        kept = softly.kept[training.best_epoch - 1] if softly.kept else softly.choose(model)
        return {
            "kept": {name: list(classes) for name, classes in kept.items()},
            "epoch": training.best_epoch,
            "history": epoch_history(training),
            "found": {"criterion": {"name": self.job.rules.criterion}},
        }

    def _chooser(self) -> Callable[[nn.Module], Kept]:
        """Return what chooses the channels to keep by the weights that a network has, on a copy of it."""
        copy = deepcopy(self.start.model)
        found = self._again(copy)

        def choose(model: nn.Module) -> Kept:
            copy.load_state_dict(model.state_dict())
            computed = found.network.captured.foreign  # weights that the network computes: captured with their values
            return self._select((self._again(copy) if computed else found).network).kept

        return choose

    def _graph_of(self, model: nn.Module) -> tuple[CapturedGraph, ChannelGraph]:
        captured = capture_graph(model, example_of(self.given, self.context))
        return captured, trace_channels(captured, statistics=self.job.statistics, heads=self.job.rules.heads)

    def _again(self, model: nn.Module, step: int = 0) -> TracedModel:
        """Trace a network that comes from the given one; patterns and floors are those of the given one."""
        captured, graph = self._graph_of(model)
        start = self.start.network
        widths = {group.name: group.width for group in graph.groups}
        if new := widths.keys() - start.widths.keys():
            raise StageError(
                f"Pruning has changed how the channels of {', '.join(sorted(new))} are coupled, so the next step does "
                "not know their floors. Prune in one step, or name these layers in `keep`."
            )
        rules = replace(self.job.rules, seed=epoch_seed(self.job.rules.seed, step))
        constraints = start.constraints.relative_to(start.widths, widths)
        return TracedModel(model, TracedNetwork(captured, graph, rules, start.unpruned, constraints))

    def _select(self, network: TracedNetwork, step: int = 0, steps: int = 1) -> Selection:
        """Choose what stays after one of `steps` steps."""
        amount = self._amount(network, step, steps)
        if amount is None:
            return Selection({}, {})
        return select_channels(
            network, amount, samples_of(network.captured, self.context, self.job.images, self.job.batch)
        )

    def _decision(self) -> Selection:
        """Choose what stays of the network that is given. Raises InputError when a target is missed by over 1 %."""
        self.context.progress.update(1, 3, f"scoring channels by {self.job.rules.criterion}")
        selection = self._select(self.start.network)
        if self.job.aim.target:
            name, fraction = self.job.aim.target
            model = self.start.network.cost_model(name)
            cost, reached = fraction * model.cost({}), model.cost(_lengths(selection.kept))
            if abs(reached / cost - 1) > TOLERANCE:
                raise InputError(
                    f"target: found no widths within {TOLERANCE:.0%} of {cost:.6g} {name}; the closest have "
                    f"{reached:.6g}. Lower align or floor, or allow another target."
                )
        return selection

    def _amount(self, now: TracedNetwork, step: int, steps: int) -> PruneAmount | None:
        """Return what leaves in one of `steps` steps, relative to the network that it finds; None for nothing."""
        aim, start = self.job.aim, self.start.network
        shape = self.job.schedule.shape if self.job.schedule else "geometric"
        if aim.target:
            name, fraction = aim.target
            cost = remaining_schedule(fraction, steps, shape)[step] * start.cost_model(name).cost({})
            return PruneAmount(cost=(name, cost)) if now.cost_model(name).cost({}) > (1 + TOLERANCE) * cost else None
        if aim.ratio is None:
            wanted = {
                n: remaining_schedule(1 - rate, steps, shape)[step] * start.widths[n] for n, rate in self.rates.items()
            }
            rates = {name: max(0.0, 1 - width / now.widths.get(name, 1)) for name, width in wanted.items()}
            return PruneAmount(rates=rates)
        left = remaining_schedule(1 - aim.ratio, steps, shape)[step]
        channels = sum(now.widths.get(name, 1) for name in start.wide) - left * sum(start.wide.values())
        wide = sum(now.wide.values())
        return PruneAmount(ratio=channels / wide) if wide and channels > 0 else None

    def _remove(self, given: Artifact, folder: Path, found: TracedModel, selection: Selection) -> Record:
        """Write the network without the channels that are not kept, and say what that was."""
        network, kept = found.network, selection.kept
        widths = _lengths(kept)
        if not any(widths[name] < network.widths[name] for name in widths):
            write_network(folder, found.model, parent=given)
            return {"widths": {}, "found": selection.details}
        self.context.progress.update(2, 3, "removing channels")
        if selection.products:
            rescale_consumers(network.graph, dict(network.captured.module.named_parameters()), selection.products, kept)
        pruned = prune_channels(network.captured, network.graph, found.model, kept)
        edit = {"kind": "prune", "keep": pruned.plan.as_json()}
        write_network(folder, pruned.model, parent=given, edits=[edit])
        return {"widths": widths, "found": selection.details, **removal_record(pruned)}

    def _check_reachable(self) -> None:
        """Raise InputError when floors forbid the aim, whatever the scores: before a training, not after it."""
        plain = replace(self.job.rules, criterion="random", candidates=0)
        if plain.allocation == "sensitivity":
            plain = replace(plain, allocation="global")
        self._select(replace(self.start.network, rules=plain))

    def _check_removed(self, records: list[Record]) -> None:
        """Raise StageError when no channel left."""
        network, aim = self.start.network, self.job.aim
        if widths_after(network, records) == network.widths:
            asked = f"ratio {aim.ratio}" if aim.ratio else f"{aim.target or dict(aim.rates)}"
            raise StageError(
                f"Pruning with {asked} and align {self.job.rules.align} would remove nothing from "
                f"{len(network.widths)} groups of channels. Raise ratio, or lower align. Not pruned: "
                f"{listed(kept_whole(network))}"
            )


def _lengths(kept: Kept) -> dict[str, int]:
    return {name: len(classes) for name, classes in kept.items()}
