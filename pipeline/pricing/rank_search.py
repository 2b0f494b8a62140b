"""The search for ranks with which a network's file takes a given time: error of layers' outputs on one side."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.factorization.budget import cheapest_loss, least_cost
from pipeline.compress.factorization.options import full_rank
from pipeline.compress.factorization.replacing import place_factors
from pipeline.core.errors import UnreachableError
from pipeline.core.file_precision import FLOAT
from pipeline.pricing.loop import confirmed_ratio, meet_target
from pipeline.pricing.model import TRUSTED_MEDIAN, TRUSTED_P90
from pipeline.pricing.opening import asked_share
from pipeline.pricing.pricer import SHIPPED_WEIGHT
from pipeline.pricing.prober import Prober
from pipeline.pricing.probes import Probe
from pipeline.pricing.ranks import factors_of, fit_ranks, rank_states, state_of, whole_ranks
from pipeline.results.latency_target import CostModelFacts, LatencyFloor, LatencyMove, LatencyTarget, LayerTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx import ModelProto
    from torch import nn

    from pipeline.compress.factorization.budget import LayerChoice
    from pipeline.compress.factorization.legs import Factor
    from pipeline.compress.factorization.names import FactorKind
    from pipeline.compress.factorization.options import Option, RankRule
    from pipeline.compress.factorization.sites import Site
    from pipeline.compress.pruning.cost import NetworkCost
    from pipeline.compress.pruning.state import NetworkState
    from pipeline.core.file_precision import FilePrecision
    from pipeline.pricing.aim import LatencyAim
    from pipeline.pricing.form import FileForm
    from pipeline.pricing.loop import LoopResult
    from pipeline.results.run import Interval

#: Runs with other seeds share their probes.
_DESIGN_SEED = 0
#: What a message advises, over the predicted floor.
_ABOVE_FLOOR = 1.03


@dataclass(frozen=True)
class RankedNetwork:
    """A network with layers that may be in factors, as it is measured.

    Attributes:
        model: the network; it is not changed.
        cost: its operations for one sample, and its parameters.
        sites: the layers, by name.
        kinds: of each, what factors it may have.
        rule: which ranks.
        precision: what its file computes in.
        form: makes the file.
        batch: the only batch that the network takes; None: any.
        is_original: whether it is the network that the recipe starts from.
    """

    model: nn.Module
    cost: NetworkCost
    sites: Mapping[str, Site]
    kinds: Mapping[str, Sequence[FactorKind]]
    rule: RankRule
    precision: FilePrecision
    form: FileForm
    batch: int | None
    is_original: bool

    @property
    def name(self) -> str:
        """What the network is called."""
        return type(self.model).__name__

    @cached_property
    def groups(self) -> Mapping[str, int]:
        """By key of a state the full rank."""
        return whole_ranks(self.sites, self.kinds)

    def file_at(self, state: NetworkState) -> ModelProto:
        """Return the file with these ranks, of any values. Cost: an export of 2 to 5 seconds, and a quantization."""
        network = deepcopy(self.model)
        place_factors(network, factors_of(state))
        return self.form(network, self.batch)

    def may_be(self, state: NetworkState) -> bool:
        """Say whether these layers may have such factors."""
        return state.widths.keys() <= self.groups.keys() and not state.dropped


class RankProber(Prober):
    """Measures files with other ranks."""

    what = "ranks"
    network: RankedNetwork


class RankSearch:
    """A network whose layers have prices, and the latency that is asked for as a `factor` of the whole file's time."""

    def __init__(self, aim: LatencyAim, prober: RankProber) -> None:
        """Time files with some layers in factors, and fit the model to them.

        Raises:
            InputError: the latency is not below that of the network, or a file cannot be made.
            DeviceError: the device cannot be reached, went away, or is throttled; what was measured is kept.
        """
        self.aim, self.prober, network = aim, prober, prober.network
        states = rank_states(network.sites, network.kinds, network.rule, _DESIGN_SEED)
        prober.probe(states, len(states))
        self._measured: list[Probe] = []
        self._fit()
        self.whole, self.factor = asked_share(aim, prober)

    def choose(
        self, layers: Mapping[str, LayerChoice], factored: Callable[[Mapping[str, Option]], nn.Module]
    ) -> tuple[dict[str, Option], LatencyTarget]:
        """Return the option of each layer that is factorised, and what a report tells; `factored` makes the network.

        Raises:
            UnreachableError: no ranks take that little.
            InputError, StageError: a file cannot be made.
            DeviceError: the device went away, or is throttled.
        """
        self._require_reachable(layers)
        options = {name: {each.factor: each for each in layer.options} for name, layer in layers.items()}

        def chosen(state: NetworkState) -> dict[str, Option]:
            return {name: options[name][factor] for name, factor in factors_of(state).items()}

        def choose(share: float, near: NetworkState | None) -> NetworkState:
            del near  # one step of a rank is a small one
            allowed = max(share - self._rest(layers), least_cost(layers, self._price))
            found = cheapest_loss(layers, self._price, allowed)
            return state_of({name: option.factor for name, option in found.items()})

        def measured(state: NetworkState) -> Interval:
            prober = self.prober
            prober.progress.update(0, 1, "measuring the file that would ship")
            file = prober.network.form(factored(chosen(state)), prober.network.batch)
            found = confirmed_ratio(self.factor, lambda: prober.ratio(file))
            self._measured.append(Probe(state, found.log.centre, found.log.error))
            self._fit()
            return found.ratio

        found = meet_target(self.factor, choose, self._predicted, measured)
        ranks = chosen(found.chosen.state)
        return ranks, self._told(found, layers, ranks)

    def _fit(self) -> None:
        probes = [*self.prober.probes, *self._measured]
        weights = [1.0] * (len(probes) - len(self._measured)) + [SHIPPED_WEIGHT] * len(self._measured)
        network = self.prober.network
        self.model = fit_ranks(network.sites, network.cost, probes, weights)

    def _predicted(self, state: NetworkState) -> float:
        return self.model.share(state)

    def _price(self, name: str, option: Option | None) -> float:
        return self.model.layer_share(name, option.factor if option else None)

    def _rest(self, layers: Mapping[str, LayerChoice]) -> float:
        """Return the share that no choice changes."""
        return 1.0 - sum(self._price(name, None) for name in layers)

    def _require_reachable(self, layers: Mapping[str, LayerChoice]) -> None:
        least, whole, aim = self._floor(layers).factor, self.whole.value, self.aim
        if least > self.factor:
            enough = least * _ABOVE_FLOOR
            advice = f"Ask for {enough:.3f}x or more, lower" if enough < 1 else "No factors make it faster: lower"
            raise UnreachableError(
                f"target: {self.factor:.3g}x of the network's file in {aim.file} ({self.factor * whole:.3g} of "
                f"{whole:.3g} ms) cannot be reached by factors: about {least:.3g}x ({least * whole:.3g} ms) is left at "
                f"the least: {self._floor(layers).why}. {advice} align or min_rank, shorten keep, or prune to this "
                "latency"
            )

    def _floor(self, layers: Mapping[str, LayerChoice]) -> LatencyFloor:
        """Return the least share that is predicted, and what it consists of."""
        rest = self._rest(layers)
        least = {
            name: min(self._price(name, each) for each in (None, *layer.options)) for name, layer in layers.items()
        }
        ms = self.whole.value
        why = f"{ms * rest:.3g} ms outside the layers that may be factorised, {ms * sum(least.values()):.3g} ms in them"
        return LatencyFloor(factor=rest + sum(least.values()), why=why)

    def _told(
        self, found: LoopResult, layers: Mapping[str, LayerChoice], chosen: Mapping[str, Option]
    ) -> LatencyTarget:
        """Return what a report tells."""
        return LatencyTarget(
            **self.aim.terms(self.prober.timer.target),
            **found.terms(),
            whole_ms=self.whole,
            whole_float_ms=self._whole_float(),
            floor=self._floor(layers),
            model=self._facts(),
            layers=tuple(self._layer(name, chosen.get(name)) for name in layers),
            moves=tuple(self._move(name, option) for name, option in chosen.items()),
        )

    def _whole_float(self) -> Interval | None:
        """Return the milliseconds of the recipe's own network as a float file, measured; None of another network."""
        network = self.prober.network
        if not network.is_original or network.precision.precision == FLOAT:
            return self.whole if network.is_original else None
        self.prober.progress.update(0, 1, "measuring the float file")
        file = network.form.in_precision("fp32")(deepcopy(network.model), network.batch)
        return self.prober.ratio(file).ratio.times(self.whole.value)

    def _facts(self) -> CostModelFacts:
        probes = len(self.prober.probes)
        median, p90 = (float(np.quantile(self.model.errors[:probes], share)) for share in (0.5, 0.9))
        trusted = median <= TRUSTED_MEDIAN and p90 <= TRUSTED_P90
        seconds = self.prober.profile.seconds
        return CostModelFacts(probes=probes, median_error=median, p90_error=p90, trusted=trusted, seconds=seconds)

    def _layer(self, name: str, option: Option | None) -> LayerTimes:
        before = self.whole.value * self._price(name, None)
        return LayerTimes(
            name=name,
            operator=self.model.classes[name],
            before_ms=before,
            after_ms=self.whole.value * self._price(name, option) if option else before,
        )

    def _move(self, name: str, option: Option) -> LatencyMove:
        site, factor = self.prober.network.sites[name], option.factor
        return LatencyMove(
            kind="rank",
            name=f"{name} ({_named(factor)})",
            before=full_rank(site, factor.kind),
            after=factor.ranks[-1],
            predicted_ms=self.whole.value * (self._price(name, option) - self._price(name, None)),
            damage=option.error,
            bought=f"{option.macs / site.cost.macs:.2f} of its operations",
        )


def _named(factor: Factor) -> str:
    """Return the kind of factors with the ranks."""
    return f"{factor.kind} {'x'.join(map(str, factor.ranks))}"
