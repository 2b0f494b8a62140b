"""Pruning to a latency: what is chosen is what the measured file says, in the precision and the runtime that ship."""

from __future__ import annotations

import fnmatch
import shutil
from functools import cached_property, partial
from typing import TYPE_CHECKING

from pipeline.compress.pruning.allocation import best_classes, remaining_schedule
from pipeline.compress.pruning.depth import prune_blocks, residual_blocks
from pipeline.compress.pruning.selection import Selection, score_network
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import StageError
from pipeline.core.runtimes import FORMS
from pipeline.network.phases import Phases
from pipeline.network.stored import load_network, write_network
from pipeline.network.tracing import samples_of
from pipeline.pricing.choice import PricedStep, head_groups
from pipeline.pricing.opening import price_network
from pipeline.pricing.search import ChosenState, LatencySearch
from pipeline.pricing.sizes import told_alone
from pipeline.results.latency_target import LATENCY
from pipeline.stages.prune.aims import PRICED
from pipeline.stages.prune.channels import PHASES, Pruning
from pipeline.stages.prune.record import removal_record, widths_after

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.compress.pruning.allocation import Kept
    from pipeline.compress.pruning.depth import ResidualBlock
    from pipeline.compress.pruning.samples import Samples
    from pipeline.compress.pruning.selection import TracedNetwork
    from pipeline.core.artifact import Artifact
    from pipeline.network.phases import Record
    from pipeline.network.training_config import PruneSchedule
    from pipeline.pricing.aim import LatencyAim
    from pipeline.pricing.opening import SmallerImage
    from pipeline.pricing.pricer import Pricer
    from pipeline.results.latency_target import TriedSize
    from pipeline.stages.prune.channels import TracedModel


class LatencyPruning(Pruning):
    """One run of a job whose aim is a latency."""

    _widths: dict[str, int]  # of a soft schedule
    #: With smaller images than the stage was given: what is known of the network at that size.
    smaller: SmallerImage | None = None
    #: The sizes of images that were looked at.
    sizes: tuple[TriedSize, ...] = ()

    def run(self) -> Record:
        """Prune, and return what changed as plain JSON.

        Raises:
            InputError: the latency cannot be reached, or is not below that of the given network.
            StageError: the result is not what it should be, or training diverges.
            DeviceError: the device cannot be reached, went away, or is throttled; what was measured is kept.
        """
        phases = Phases(self.context.folder / PHASES, self.given, self.context.progress.note)
        return self.compressed(phases)

    def compressed(self, phases: Phases) -> Record:
        """Prune from the latest phase on, at the size of images that this has; arguments and errors as of `run`."""
        schedule = self.job.schedule
        if schedule and schedule.method == "layerwise":
            records = self._layerwise(phases, schedule)
        elif schedule and schedule.method == "soft":
            records = self._softly(phases, schedule)
        else:
            records = self._stepwise(phases, schedule)
        if not self.smaller and not any("certificate" in record for record in records):
            raise StageError("No move has made the file faster, so nothing was removed. Ask for a lower latency")
        found = self._changed(records, phases.latest.folder)
        if self.smaller:
            found["macs"]["before"] = self.smaller.macs
        found |= next(({LATENCY: each["found"][LATENCY]} for each in records if LATENCY in each.get("found", {})), {})
        if dropped := _dropped(records):
            found["blocks"] = {"before": len(self.blocks), "after": len(self.blocks) - len(dropped)}
            found["removed"] = dropped
        phases.finish(self.context.folder)
        return found

    def _stepwise(self, phases: Phases, schedule: PruneSchedule | None) -> list[Record]:
        """Choose, remove channels and blocks, and train where there is a schedule; once, or in its steps."""
        steps = schedule.steps if schedule else 1
        records: list[Record] = []
        for step in range(steps):
            before = tuple(records)
            decision = phases.run(partial(self._decide_step, step=step, steps=steps, before=before))
            records.append(decision)
            if kept := {name: tuple(classes) for name, classes in decision["kept"].items()}:
                records.append(phases.run(partial(self._keep, kept=kept)))
            if decision["dropped"]:
                records.append(phases.run(partial(self._drop, names=decision["dropped"], gone=_dropped(before))))
            if schedule:
                label = f"step {step + 1}/{steps}, "
                records.append(phases.run(partial(self._train, schedule=schedule, step=step, label=label)))
        return records

    def _softly(self, phases: Phases, schedule: PruneSchedule) -> list[Record]:
        """Choose widths on the given network; which channels are zero is then chosen anew after every epoch."""
        decision = phases.run(partial(self._decide_step, step=0, steps=1, before=()))
        self._widths = {name: len(classes) for name, classes in decision["kept"].items()}
        return [decision, *self._soft(phases, schedule)]

    def _decision(self) -> Selection:
        """Choose all channels on the given network, for a schedule that removes them group by group."""
        chosen = self._chosen(self.given, self.start, NetworkState(), self._search.factor, final=True)
        return Selection(chosen.kept, {**chosen.details, LATENCY: chosen.told})

    def _select(self, network: TracedNetwork, step: int = 0, steps: int = 1) -> Selection:
        """Choose the channels to keep at the widths that were chosen before."""
        del step, steps
        samples = samples_of(network.captured, self.context, self.job.images, self.job.batch)
        scored = score_network(network, samples)
        return Selection(best_classes(scored.scores, self._widths), scored.details)

    def _check_reachable(self) -> None:
        """Widths have been chosen before a training begins."""

    @property
    def aim(self) -> LatencyAim:
        """The latency that is asked for."""
        if self.job.aim.latency is None:
            raise ValueError("found no latency; expected a job that aims at one")
        return self.job.aim.latency

    @cached_property
    def blocks(self) -> tuple[ResidualBlock, ...]:
        """All residual blocks of the given network."""
        return residual_blocks(self.start.network.captured)

    @cached_property
    def _movable(self) -> frozenset[str]:
        """The blocks that may leave: none where blocks are no move, and none that `keep` names."""
        patterns = self.job.rules.keep
        return frozenset(
            block.name
            for block in (self.blocks if "blocks" in self.aim.moves else ())
            if not any(fnmatch.filter({block.name, *block.layers}, pattern) for pattern in patterns)
        )

    @cached_property
    def pricer(self) -> Pricer:
        """What prices the given network; probing begins when it is asked for its model.

        Raises:
            InputError: nothing may leave, or a file of the network cannot be made.
            DeviceError: the target's device cannot be reached.
        """
        return price_network(self.whole_step, self.given, self.context, self.aim, name=self._name)

    @cached_property
    def whole_step(self) -> PricedStep:
        """The given network as the search wants it, with all that may leave."""
        return self._step_of(self.start, NetworkState())

    @cached_property
    def search(self) -> LatencySearch:
        """The given network with its prices; probing takes minutes, once for a network and a device."""
        if self.job.rules.allocation == PRICED:  # too few images are found out before minutes of probing
            next(iter(self.samples.training()))
        from_original = self.given.digest == self.context.original.digest
        return LatencySearch(self.aim, self.pricer, self.smaller, from_original=from_original)

    @cached_property
    def samples(self) -> Samples:
        """What the stage may look at of the data."""
        return samples_of(self.start.network.captured, self.context, self.job.images, self.job.batch)

    @property
    def _search(self) -> LatencySearch:
        """The same, where the target can be reached."""
        self.search.require_reachable()
        return self.search

    @property
    def _name(self) -> str:
        return type(self.start.model).__name__

    def _step_of(self, found: TracedModel, base: NetworkState) -> PricedStep:
        """Return what is left of the network as the search wants it."""
        network = found.network
        heads = head_groups(network)
        open_groups = [
            group for group in network.open.groups if ("heads" if group.name in heads else "channels") in self.aim.moves
        ]
        grids = {group.name: network.constraints.of(group.name).widths(group.width) for group in open_groups}
        left = [block for block in self.blocks if block.name not in base.dropped]
        now = residual_blocks(network.captured)
        if len(now) != len(left):
            raise StageError(
                f"Pruning has changed the residual blocks of the network: {len(left)} expected, {len(now)} found. "
                "Leave blocks out of `moves`"
            )
        blocks = {old.name: new for old, new in zip(left, now, strict=True) if old.name in self._movable}
        return PricedStep(found.model, network, grids, blocks, base)

    def _decide_step(self, given: Artifact, folder: Path, *, step: int, steps: int, before: Sequence[Record]) -> Record:
        """Choose widths and blocks of one of `steps` steps; the last one is measured until it meets the target."""
        final = step == steps - 1
        if self.smaller and self.smaller.found.left >= 1:
            told = told_alone(self.smaller.found, self.smaller.name, self.aim, self.context.target)
            chosen = ChosenState({}, frozenset(), {}, told.model_dump(mode="json") if final else None)
        else:
            shape = self.job.schedule.shape if self.job.schedule else "geometric"
            part = remaining_schedule(self._search.factor, steps, shape)[step]
            found = self._again(load_network(given), step) if before else self.start
            chosen = self._chosen(given, found, self._base(before), part, final=final)
        for name in FORMS["torch"].files:
            shutil.copyfile(given.folder / name, folder / name)
        return {
            "kept": {name: list(classes) for name, classes in chosen.kept.items()},
            "dropped": sorted(chosen.dropped),
            "found": {**chosen.details, **({LATENCY: self._with_sizes(chosen.told)} if chosen.told else {})},
        }

    def _with_sizes(self, told: Record) -> Record:
        """Return what a report tells, with the sizes of images that were looked at."""
        tried = [each.model_dump(mode="json") for each in self.sizes]
        return told | ({"sizes": tried} if tried else {})

    def _chosen(
        self, given: Artifact, found: TracedModel, base: NetworkState, part: float, *, final: bool
    ) -> ChosenState:
        step = self._step_of(found, base)
        return self._search.choose(step, part, given=given, context=self.context, job=self.job, final=final)

    def _base(self, before: Sequence[Record]) -> NetworkState:
        """Return what earlier steps have left of the given network."""
        widths = widths_after(self.start.network, before)
        narrower = {name: width for name, width in widths.items() if width < self.start.network.widths[name]}
        return NetworkState(narrower, frozenset(_dropped(before)))

    def _keep(self, given: Artifact, folder: Path, *, kept: Kept) -> Record:
        return self._remove(given, folder, self._again(load_network(given)), Selection(kept, {}))

    def _drop(self, given: Artifact, folder: Path, *, names: Sequence[str], gone: Sequence[str]) -> Record:
        """Remove residual blocks by the names that they have in the network that the stage was given."""
        self.context.progress.update(2, 3, "removing blocks")
        left = [block.name for block in self.blocks if block.name not in gone]
        model = load_network(given)
        captured, graph = self._graph_of(model)
        now = dict(zip(left, residual_blocks(captured), strict=True))
        chosen = [now[name].name for name in names]
        pruned = prune_blocks(captured, graph, model, chosen)
        write_network(
            folder, pruned.model, parent=given, edits=[{"kind": "prune blocks", "keep": {}, "blocks": chosen}]
        )
        return {"widths": {}, **removal_record(pruned)}


def _dropped(records: Sequence[Record]) -> list[str]:
    return [name for record in records for name in record.get("dropped", ())]
