"""Prices a network on a device: which states to probe, and the model fitted to their times."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.analysis.feeds import random_feeds
from pipeline.analysis.times import node_times
from pipeline.compress.pruning.allocation.damage import Choices
from pipeline.compress.pruning.allocation.knapsack import least_damage
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError
from pipeline.onnx_graph.file import onnx_ports
from pipeline.pricing.coarse import COARSE_PROBES, fit_coarse
from pipeline.pricing.design import active_states, probe_states
from pipeline.pricing.fit import LatencyFit
from pipeline.pricing.floor import floor_of
from pipeline.pricing.model import LatencyModel
from pipeline.pricing.prober import Prober
from pipeline.results.profile import (
    ClassPrice,
    FittedPrices,
    LayerPrice,
    ModelError,
    PriceFloor,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.compress.pruning.cost import ProductsModel
    from pipeline.core.file_precision import FilePrecision
    from pipeline.pricing.coarse import CoarseModel
    from pipeline.pricing.making import FileMaker
    from pipeline.pricing.probes import Probe
    from pipeline.pricing.relative import TimeModel
    from pipeline.pricing.template import FileTemplate
    from pipeline.pricing.timing import FileTimer

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


class Pricer(Prober):
    """Measures states of one network with one timer, and fits the model of its time."""

    network: PricedNetwork

    def __init__(self, network: PricedNetwork, timer: FileTimer, folder: Path, seed: int) -> None:
        super().__init__(network, timer, folder, seed)
        self._fit: LatencyFit | None = None

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
        self.probe(drawn, total)
        for turn in range(_TURNS):
            known = len(drawn) + turn * ADDED // _TURNS  # a run that was killed later finds the same states again
            if len(self.probes) < known + ADDED // _TURNS:
                model = fit.model(self.probes[:known])
                visited = _visited(model, network, _DESIGN_SEED + turn)
                self.probe(active_states(model, visited, ADDED // _TURNS), total)
        model = fit.model(self.probes)
        self._keep(fitted=_fitted(model, network))
        return model

    def model_with(self, measured: Sequence[Probe], model: TimeModel) -> TimeModel:
        """Return a model that is also fitted to files that ship, each of which counts like ten probes."""
        if self._fit is None or not isinstance(model, LatencyModel):
            return model
        weights = [1.0] * len(self.probes) + [SHIPPED_WEIGHT] * len(measured)
        return self._fit.model([*self.probes, *measured], weights, rounding=model.coefficients.rounding)

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
        self.probe(states, len(states))
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
