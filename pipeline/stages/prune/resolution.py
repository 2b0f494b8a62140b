"""Smaller images as a move of pruning to a latency: the side is chosen first, in a phase of its own.

At each side the whole file is timed against the one at the given side. What that leaves of the target says what else
has to leave there, by the prices of the given side, and the loss of all of it together decides.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from pipeline.compress.pruning.cost import count_cost
from pipeline.compress.pruning.damage import DamageMeter
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError, UnreachableError, first_line
from pipeline.core.runtimes import FORMS
from pipeline.data.config import SIZED
from pipeline.network.phases import Phases
from pipeline.network.stored import load_network, write_network
from pipeline.pricing.choice import StateChoice, few_samples
from pipeline.pricing.loop import AIM
from pipeline.pricing.model import LatencyModel
from pipeline.pricing.opening import SmallerImage, asked_share, file_maker
from pipeline.pricing.sizes import ChosenSize, at_side, candidate_sides, image_stride, side_of
from pipeline.results.latency_target import TriedSize
from pipeline.results.run import Interval
from pipeline.stages.prune.channels import PHASES

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.artifact import Artifact, TensorSpec
    from pipeline.network.phases import Record
    from pipeline.pricing.making import FileMaker
    from pipeline.stages.prune.latency import LatencyPruning

_SAME = Interval(value=1.0, low=1.0, high=1.0)


def prune_at_best_size(pruning: LatencyPruning) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Record]:
    """Choose the size of images, and prune to the latency there; return inputs, outputs and what changed.

    Raises:
        InputError: the data have no other sizes, or the latency cannot be reached at any of them.
        StageError, DeviceError: as of `LatencyPruning.run`.
    """
    start = pruning
    phases = Phases(start.context.folder / PHASES, start.given, start.context.progress.note)
    search = SizeSearch(start)
    found = ChosenSize.model_validate(phases.run(search.run)["size"])
    worker = start if found.after == found.before else search.at(found.after, found)
    worker.sizes = found.tried
    phases.latest = phases.latest.model_copy(update={"inputs": worker.given.inputs})
    return worker.given.inputs, start.given.outputs, worker.compressed(phases)


class SizeSearch:
    """The choice of a size for one network."""

    def __init__(self, start: LatencyPruning) -> None:
        """Take the pruning of the network at the size that it was given.

        Raises InputError where the data have no other sizes.
        """
        self._task = start.context.task()
        if self._task.resized is None:
            raise InputError(
                "moves: found resolution with data whose images have no size that can be chosen, allowed: data with a "
                f"key size: {', '.join(SIZED)}"
            )
        self.start, self.own = start, side_of(start.given)
        self._known: dict[int, LatencyPruning] = {}
        self._whole_loss: dict[int, float] = {}

    def run(self, given: Artifact, folder: Path) -> Record:
        """Choose a side and write the network into the folder, with a line in its plan that says so."""
        found = self._chosen()
        self._known = {side: worker for side, worker in self._known.items() if side == found.after}
        if found.after == self.own:
            for name in FORMS["torch"].files:
                shutil.copyfile(given.folder / name, folder / name)
        else:
            edit = {"kind": "resolution", "keep": {}, "before": self.own, "after": found.after}
            write_network(folder, load_network(given), parent=at_side(given, found.after), edits=[edit])
        return {"size": found.model_dump(mode="json")}

    def at(self, side: int, found: ChosenSize | None = None) -> LatencyPruning:
        """Return the pruning of the same network with images of a side; with `found` it counts from the given size.

        Raises InputError where the network cannot be captured with them, or is another one then.
        """
        start = self.start
        if side not in self._known:
            context = replace(start.context, task=partial(self._task.at_size, side))
            worker = type(start)(start.job, at_side(start.given, side), context)
            if worker.start.network.widths != start.start.network.widths or len(worker.blocks) != len(start.blocks):
                raise InputError(f"its channels or blocks are others with images of {side} pixels a side")
            self._known[side] = worker
        worker = self._known[side]
        if found:
            worker.smaller = SmallerImage(found, self._files, start.given.inputs[0].name, self._macs)
        return worker

    @cached_property
    def _files(self) -> FileMaker:
        """What makes files at the given size."""
        start = self.start
        return file_maker(start.whole_step, start.given, start.context, start.aim)

    @cached_property
    def _macs(self) -> int:
        return count_cost(self.start.start.model, self.start.start.network.captured.example).macs

    @cached_property
    def _asked(self) -> tuple[Interval, float]:
        """The whole file's milliseconds at the given size, and the target as a share of them."""
        start = self.start
        if start.whole_step.movable:
            return start.search.whole, start.search.factor
        return asked_share(start.aim, start.pricer)

    @cached_property
    def _choice(self) -> StateChoice | None:
        """The choice of what else leaves, by the prices at the given size; None where nothing else may."""
        start = self.start
        if not start.whole_step.movable:
            return None
        droppable = start.pricer.network.droppable
        blocks = {name: block for name, block in start.whole_step.blocks.items() if name in droppable}
        step = replace(start.whole_step, blocks=blocks)
        return StateChoice(lambda: start.search.model, step, start.samples, start.context)

    def ratios(self) -> dict[int, Interval]:
        """Return the time of the whole file at each smaller side as a share of that at the given side.

        Raises:
            InputError: the network takes no smaller images, and nothing else may leave.
            DeviceError: the device cannot be reached, went away, or is throttled.
        """
        return {side: self._ratio(side) for side in self._sides()}

    def _chosen(self) -> ChosenSize:
        """Return the side that loses least of those at which the target can be reached."""
        sides = self._sides()
        if not sides:
            return self._found(TriedSize(side=self.own, ratio=_SAME), ())
        self._loss(self.own, NetworkState())
        tried = {self.own: self._judged(self.own, _SAME)}
        for side in sides:
            larger = next((each.side for each in tried.values() if self._is_enough(each)), None)
            why = f"{larger} pixels a side are small enough, with nothing else to leave"
            tried[side] = TriedSize(side=side, why=why) if larger else self._judged(side, self._ratio(side))
        order = sorted((each for each in tried.values() if each.loss is not None), key=lambda each: each.loss or 0.0)
        chosen = None
        for each in order:
            why = self._refusal(each) if chosen is None else f"more is lost than with {chosen.side} pixels a side"
            chosen = each if chosen is None and not why else chosen
            tried[each.side] = each.model_copy(update={"why": why})
        if chosen is None:
            raise UnreachableError(self._unreachable([*tried.values()]))
        return self._found(chosen, tuple(tried.values()))

    def _is_enough(self, tried: TriedSize) -> bool:
        """Say whether the whole network meets the target with these images."""
        return tried.ratio is not None and tried.ratio.value <= self._asked[1]

    def _sides(self) -> list[int]:
        """Return the smaller sides with which the network can be captured; of the others it is said once why not."""
        start = self.start
        stride = image_stride(start.start.model, start.start.network.captured.example)
        possible, refused = list[int](), dict[int, str]()
        for side in candidate_sides(self.own, stride):
            try:
                self.at(side)
                possible.append(side)
            except InputError as error:
                refused[side] = first_line(error)
        if refused:
            listed = ", ".join(map(str, refused))
            start.context.progress.note(f"images of {listed} pixels a side are no move: {next(iter(refused.values()))}")
        if not possible and not start.whole_step.movable:
            why = next(iter(refused.values()), f"none from half of {self.own} pixels on is allowed")
            raise InputError(f"moves: the network takes no smaller images, and nothing else may leave: {why}")
        return possible

    def _ratio(self, side: int) -> Interval:
        """Time the whole network's file at a side against the one at the given side."""
        start, worker = self.start, self.at(side)
        start.context.progress.update(0, 1, f"timing the file with images of {side} pixels a side")
        make = file_maker(worker.whole_step, worker.given, worker.context, worker.aim)
        return start.pricer.ratio(make(NetworkState())).ratio

    def _judged(self, side: int, ratio: Interval) -> TriedSize:
        """Return what a side loses together with what else has to leave there; no loss where it is no choice."""
        _, factor = self._asked
        found = TriedSize(side=side, ratio=ratio)
        if side != self.own and ratio.high >= 1:
            return found.model_copy(update={"why": "its file is not seen to be faster"})
        state = self._state(factor / ratio.value)
        if state is None:
            least = "the target cannot be reached, by the prices of the given size"
            return found.model_copy(update={"why": least if self._choice else "its file takes more than the target"})
        return found.model_copy(update={"loss": self._loss(side, state)})

    def _state(self, left: float) -> NetworkState | None:
        """Return what else leaves where this share of a whole file's time may be spent; None where it is too little."""
        if left >= 1:
            return NetworkState()
        if self._choice is None:
            return None
        state = self._choice.state_at(AIM * left, None)
        return state if self._choice.share(state) <= left else None

    def _loss(self, side: int, state: NetworkState) -> float:
        """Return the loss of a state at a side on training samples; keep that of the whole network there."""
        start = self.start
        worker = start if side == self.own else self.at(side)
        start.context.progress.update(0, 1, f"damage with images of {side} pixels a side")
        network = worker.start.network
        meter = DamageMeter(network.captured, network.graph, few_samples(worker.samples, worker.context))
        blocks = {old.name: new for old, new in zip(start.blocks, worker.blocks, strict=True)}
        kept = self._choice.kept(state) if self._choice else {}
        self._whole_loss[side] = meter.loss({})
        return meter.loss(kept, [blocks[name] for name in sorted(state.dropped)])

    def _refusal(self, tried: TriedSize) -> str:
        """Say why the target cannot be reached at a side that was judged, by the prices of that side; "" if it can."""
        if tried.side == self.own:
            return "" if self.start.search.reachable else self._least(self.start, 1.0)
        found = self._found(tried, ())
        worker = self.at(tried.side, found)
        if found.left >= 1 or worker.search.reachable:
            return ""
        return self._least(worker, found.ratio.value)

    def _least(self, worker: LatencyPruning, share: float) -> str:
        return f"about {worker.search.floor.factor * share:.3g}x is left at the least"

    def _unreachable(self, tried: list[TriedSize]) -> str:
        whole, factor = self._asked
        sides = {why: [str(each.side) for each in tried if each.why == why] for why in {each.why: 0 for each in tried}}
        told = "; ".join(f"{', '.join(alike)} pixels: {why}" for why, alike in sides.items())
        return (
            f"target: {factor:.3g}x of the unpruned network's file in {self.start.aim.file} "
            f"({factor * whole.value:.3g} of {whole.value:.3g} ms) cannot be reached with moves "
            f"{', '.join(self.start.aim.moves)}, with images of {told}. Ask for more, lower floor, or allow more moves"
        )

    def _found(self, chosen: TriedSize, tried: tuple[TriedSize, ...]) -> ChosenSize:
        whole, factor = self._asked
        model = self.start.search.model if self.start.whole_step.movable else None
        smaller = chosen.side != self.own
        return ChosenSize(
            before=self.own,
            after=chosen.side,
            ratio=chosen.ratio or _SAME,
            whole=whole,
            factor=factor,
            damage=self._whole_loss[chosen.side] - self._whole_loss[self.own] if smaller else None,
            layers=dict(model.node_times()) if isinstance(model, LatencyModel) and smaller else {},
            tried=tried,
        )
