"""Prices a network on a device: states to probe, their measured times, and the model fitted to them.

Probes are kept after every measurement: a run that was killed, and every later one, goes on with them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from pipeline.analysis.feeds import random_feeds
from pipeline.analysis.times import node_times
from pipeline.compress.pruning.allocation.damage import Choices
from pipeline.compress.pruning.allocation.knapsack import least_damage
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError
from pipeline.latency.device_cache import keep_record, read_kept
from pipeline.onnx_graph.file import onnx_ports, write_onnx
from pipeline.pricing.coarse import COARSE_PROBES, fit_coarse
from pipeline.pricing.design import active_states, probe_states
from pipeline.pricing.fit import LatencyFit
from pipeline.pricing.floor import floor_of
from pipeline.pricing.model import LatencyModel
from pipeline.pricing.probes import Probe, graph_digest, kept_profile, machine_of, probe_of
from pipeline.pricing.timing import PROBE_S, TOGETHER, VERDICT_S
from pipeline.results.profile import (
    ClassPrice,
    CostProfile,
    FittedPrices,
    LayerPrice,
    ModelError,
    PriceFloor,
    SizePrice,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.compress.pruning.cost import ProductsModel
    from pipeline.core.file_precision import FilePrecision
    from pipeline.pricing.coarse import CoarseModel
    from pipeline.pricing.making import FileMaker
    from pipeline.pricing.relative import TimeModel
    from pipeline.pricing.template import FileTemplate
    from pipeline.pricing.timing import FileTimer, PairedRatio
    from pipeline.results.run import Interval

#: States that are drawn, and states that are added where the model is least sure.
DRAWN, ADDED = 32, 16
#: How many probes a file that ships counts like.
SHIPPED_WEIGHT = 10.0
#: Parts in which states are added, and the seed of all that is drawn: runs with other seeds share their probes.
_TURNS, _DESIGN_SEED = 2, 0
#: Times, from near the whole network's to near the least, at which states are looked for that a search visits.
_SHARES = 16


@dataclass(frozen=True)
class PricedNetwork:
    """A network as it is priced.

    Attributes:
        name: what it is called.
        precision: what its file computes in.
        groups: the width of every group.
        grids: the widths that each group may have, ascending, the whole one last.
        droppable: the residual blocks that may leave.
        inside: by block the groups that lie in it alone.
        macs: its multiply-accumulates, for networks without a template.
        make: makes the real file of a state.
        template: the file as a function of the state; None where it has none.
    """

    name: str
    precision: FilePrecision
    groups: Mapping[str, int]
    grids: Mapping[str, Sequence[int]]
    droppable: tuple[str, ...]
    inside: Mapping[str, frozenset[str]]
    macs: ProductsModel
    make: FileMaker
    template: FileTemplate | None

    def file_at(self, state: NetworkState) -> ModelProto:
        """Return a file for timing: from the template, or else the real one."""
        return self.template.file_at(state) if self.template else self.make(state)

    def may_be(self, state: NetworkState) -> bool:
        """Say whether the network may be in a state: only what moves is narrower or gone, as its template tells."""
        moving = {name for name, grid in self.grids.items() if len(grid) > 1}
        return state.widths.keys() <= moving and state.dropped <= {*self.droppable}


class Pricer:
    """Measures states of one network with one timer; `folder` is for probe files, which are removed again."""

    def __init__(self, network: PricedNetwork, timer: FileTimer, folder: Path, seed: int) -> None:
        self.network, self.timer, self.folder, self.seed = network, timer, folder, seed
        self.progress = timer.progress
        self.began = time.monotonic()
        self._fit: LatencyFit | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.whole = folder / "whole.onnx"
        model = network.file_at(NetworkState())
        write_onnx(model, self.whole)
        self._machine = machine_of(timer.target, timer.device)
        self.kept = kept_profile(
            graph_digest(model), network.groups, network.precision.model_dump_json(), timer.target, self._machine
        )
        self.profile = read_kept(self.kept, CostProfile) or self._begun()

    def model(self) -> LatencyModel | CoarseModel:
        """Return the model of the network's time; what is not known yet is probed.

        Raises:
            InputError, OutputsError: the runtime refuses a probe.
            DeviceError: the device cannot be reached, went away, or is throttled: what was measured is kept.
        """
        network = self.network
        if network.template is None:
            return self._coarse()
        fit = self._fit = LatencyFit(
            network.template.nodes, network.groups, self.profile.whole.value, self._node_times() or None
        )
        drawn = probe_states(network.grids, network.droppable, _DESIGN_SEED, DRAWN)
        total = len(drawn) + ADDED
        self._probe(drawn, total)
        for turn in range(_TURNS):
            known = len(drawn) + turn * ADDED // _TURNS  # a run that was killed later finds the same states again
            if len(self.probes) < known + ADDED // _TURNS:
                model = fit.model(self.probes[:known])
                visited = _visited(model, network, _DESIGN_SEED + turn)
                self._probe(active_states(model, visited, ADDED // _TURNS), total)
        model = fit.model(self.probes)
        self._keep(fitted=_fitted(model, network))
        return model

    def model_with(self, measured: Sequence[Probe], model: TimeModel) -> TimeModel:
        """Return a model that is also fitted to files that ship, each of which counts like ten probes."""
        if self._fit is None or not isinstance(model, LatencyModel):
            return model
        weights = [1.0] * len(self.probes) + [SHIPPED_WEIGHT] * len(measured)
        return self._fit.model([*self.probes, *measured], weights, rounding=model.coefficients.rounding)

    def forget(self) -> None:
        """Leave aside what was measured before, and time the whole network's file anew."""
        self.began = time.monotonic()
        self.profile = self._begun()

    def ratio(self, model: ModelProto, against: Path | None = None) -> PairedRatio:
        """Measure a file against the whole network's, or against another one."""
        file = self.folder / "state.onnx"
        write_onnx(model, file)
        return self.timer.timed(against or self.whole, [file], VERDICT_S).ratios[0]

    def whole_now(self) -> Interval:
        """Measure the whole network's file alone: its milliseconds as the device is now."""
        return self.timer.timed(self.whole, [], VERDICT_S).whole

    def gains(self, state: NetworkState, without: Mapping[str, NetworkState]) -> dict[str, PairedRatio]:
        """Return for each of some states by name log(its time / the time of `state`): what a move has bought."""
        base = self.folder / "state.onnx"
        write_onnx(self.network.file_at(state), base)
        found: dict[str, PairedRatio] = {}
        names = list(without)
        for start in range(0, len(names), TOGETHER):
            some = names[start : start + TOGETHER]
            self.progress.update(start, len(names), "measuring what each move has bought")
            files = self._write({name: without[name] for name in some})
            timed = self.timer.timed(base, files, PROBE_S)
            found |= dict(zip(some, timed.ratios, strict=True))
        return found

    def keep_sizes(self, ratios: Mapping[int, Interval]) -> None:
        """Keep in the profile what the whole file takes at other sides of its images, as shares of its time."""
        self._keep(sizes=tuple(SizePrice(side=side, ratio=ratio) for side, ratio in ratios.items()))

    @property
    def probes(self) -> list[Probe]:
        """What is known of states that the network may be in; others are kept for who allows their moves."""
        return [probe for probe in map(probe_of, self.profile.probes) if self.network.may_be(probe.state)]

    def _probe(self, states: Sequence[NetworkState], total: int) -> None:
        """Measure the states that are not known yet, some together, and keep them as they are found."""
        known = {(tuple(sorted(each.state.widths.items())), each.state.dropped) for each in self.probes}
        new = [each for each in states if (tuple(sorted(each.widths.items())), each.dropped) not in known]
        began = time.monotonic()
        for start in range(0, len(new), TOGETHER):
            some = new[start : start + TOGETHER]
            done = min(len(self.probes), total - (len(new) - start))
            left = (time.monotonic() - began) / start * (total - done) if start else 0.0
            text = f"probing widths, about {left:.0f} s left" if left else "probing widths"
            self.progress.update(done, total, text)
            files = self._write({str(place): state for place, state in enumerate(some)})
            timed = self.timer.timed(self.whole, files, PROBE_S)
            found = [
                Probe(state, each.log.centre, each.log.error).record()
                for state, each in zip(some, timed.ratios, strict=True)
            ]
            self._keep(probes=(*self.profile.probes, *found))

    def _write(self, states: Mapping[str, NetworkState]) -> list[Path]:
        files = []
        for place, state in enumerate(states.values()):
            files.append(self.folder / f"probe{place}.onnx")
            write_onnx(self.network.file_at(state), files[-1])
        return files

    def _coarse(self) -> CoarseModel:
        network, shares = self.network, np.linspace(0, 0.85, COARSE_PROBES)
        if all(len(grid) == 1 for grid in network.grids.values()):
            raise InputError(
                "target: no latency but that of the whole network can be reached: the network's file has no template, "
                "so that blocks are no moves, and keep, floor and align leave no group another width. Lower align or "
                "floor, or allow other moves"
            )
        states = [
            NetworkState({name: grid[round(share * (len(grid) - 1))] for name, grid in network.grids.items()})
            for share in shares
        ]
        self._probe(states, len(states))
        return fit_coarse(network.macs, self.profile.whole.value, self.probes)

    def _node_times(self) -> Mapping[str, float]:
        """Return the milliseconds of the whole file's nodes by the runtime's own profiler, on this machine alone.

        They are kept with the probes, so that every run finds the same model.
        """
        if self.timer.device is None and self.profile.nodes is None:
            self._keep(nodes=self._profiled())
        return self.profile.nodes or {}

    def _profiled(self) -> dict[str, float]:
        inputs, _ = onnx_ports(self.whole)
        try:
            found = node_times(
                self.whole,
                self.timer.target.runtime,
                random_feeds(inputs, 1, self.seed)[0],
                threads=self.timer.target.threads,
            )
        except InputError as error:
            self.progress.note(f"no times of single layers: {error}")
            return {}
        return {kernel.name: kernel.nanoseconds / 1e6 for kernel in found.kernels if kernel.own}

    def _begun(self) -> CostProfile:
        timed = self.timer.timed(self.whole, [], PROBE_S)
        target, machine = self.timer.target, self._machine
        return CostProfile(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            network=self.network.name,
            precision=str(self.network.precision),
            runtime=target.runtime,
            runtime_version=machine.runtime_version,
            threads=target.threads,
            batch=target.batch,
            device=target.device,
            fingerprint=dict(machine.fingerprint),
            whole=timed.whole,
        )

    def _keep(self, **found: object) -> None:
        seconds = self.profile.seconds + time.monotonic() - self.began
        self.began = time.monotonic()
        self.profile = self.profile.model_copy(update={**found, "seconds": seconds})
        keep_record(self.kept, self.profile)


def _visited(model: LatencyModel, network: PricedNetwork, seed: int) -> list[NetworkState]:
    """Return the states that a search visits whose damages are drawn at random, at several times."""
    rng = np.random.default_rng(seed)
    least, states = floor_of(model, network.grids, network.droppable).ms / model.cost({}), list[NetworkState]()
    for share in np.linspace(0.95, 0.15, _SHARES):
        damage = {
            name: float(rng.lognormal()) * (1 - np.array(grid) / grid[-1]) ** 2 for name, grid in network.grids.items()
        }
        blocks = {name: float(rng.lognormal()) for name in network.droppable}
        target = (least + share * (1 - least)) * model.cost({})
        choices = Choices(network.grids, damage, blocks, network.inside)
        states.append(least_damage(choices, model, target, evaluations=0).state)
    return states


def _fitted(model: LatencyModel, network: PricedNetwork) -> FittedPrices:
    """Return what the model says of the whole file, for people and programs."""
    known, floor = model.coefficients, floor_of(model, network.grids, network.droppable)
    operators = {feature.node: feature.operator for feature in model.features}
    counts = Counter(operators.values())
    return FittedPrices(
        error=ModelError(median=known.median_error, p90=known.p90_error, trusted=known.is_trusted),
        floor=PriceFloor(factor=floor.ms / model.cost({}), parts=floor.parts),
        classes=tuple(
            ClassPrice(
                name=name,
                layers=counts[name],
                milliseconds=ms,
                granule=known.granules[name].size if known.granules[name].seen else None,
            )
            for name, ms in model.class_times().items()
        ),
        layers=tuple(
            LayerPrice(name=name, operator=operators[name], milliseconds=ms)
            for name, ms in sorted(model.shares.items(), key=lambda item: -item[1])
        ),
    )
