"""What a network's file takes with some layers in factors: shares of its time, fitted to whole files that were timed.

    t(x) / t(whole) = rest + sum of layers as they are + sum over layers in factors of (calls + work of their legs)

A layer as it is takes one share; in factors one for the operators that there are more, and one that grows with the
work of its legs: their operations, and reading their weights. No share is negative. Layers of one class and factors of
one kind have a part of what is not known in common, so that some tens of files tell about many layers.

A state of such a network has the ranks under the names of layer, kind and place: {"conv1 tucker 0": 8, ...}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.factorization.legs import Factor, leg_costs
from pipeline.compress.factorization.options import break_even_rank, full_rank
from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.regression import Observations, Posterior, Prior, log_likelihood

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.factorization.names import FactorKind
    from pipeline.compress.factorization.options import RankRule
    from pipeline.compress.factorization.sites import Site
    from pipeline.compress.pruning.cost import NetworkCost
    from pipeline.pricing.probes import Probe

    Floats = NDArray[np.float64]

#: How many states are drawn, and which shares of the layers are in factors in these, by turns.
PROBES = 32
_SHARES = (0.25, 0.5, 0.75, 1.0)
#: Ranks that are drawn, as shares of break-even.
_LOWEST, _HIGHEST = 0.1, 0.95
#: What reading a weight takes, in operations: at batch 1 each weight of a linear layer is read for one of them.
_WEIGHT = 16
#: Expected: of the file's time outside the layers that may be factorised, beside their share of the work; of each
#: operator more; of the work of legs, over that of the layer.
_OVERHEAD, _CALL, _LEGS = 0.1, 0.3, 1.2
#: Standard deviations of factors that features have in common, and of their own.
_COMMON, _OWN, _LAYER = 0.7, 0.5, 0.5
#: Of operators more hardly anything is known: networks of small layers take all their time for them.
_CALLS_COMMON, _CALLS_OWN = 6.0, 3.0
_WHOLE_ERROR = 1e-3
_MODEL_ERRORS = (0.005, 0.01, 0.02, 0.04)  # of a state's time beside noise; the likeliest is taken


def state_of(factors: Mapping[str, Factor]) -> NetworkState:
    """Return the state with these layers in factors."""
    return NetworkState(
        {f"{name} {each.kind} {place}": rank for name, each in factors.items() for place, rank in enumerate(each.ranks)}
    )


def factors_of(state: NetworkState) -> dict[str, Factor]:
    """Return the factors of a state. Raises ValueError where it is another kind of state."""
    ranks: dict[tuple[str, str], list[int]] = {}
    for key, rank in state.widths.items():
        name, kind, _ = key.rsplit(" ", 2)
        ranks.setdefault((name, kind), []).append(rank)
    return {name: Factor.from_json({"kind": kind, "ranks": each}) for (name, kind), each in ranks.items()}


def whole_ranks(sites: Mapping[str, Site], kinds: Mapping[str, Sequence[FactorKind]]) -> dict[str, int]:
    """Return by the keys of a state the ranks with which factors are the layer itself."""
    return {
        f"{name} {kind} {place}": full_rank(sites[name], kind)
        for name, own in kinds.items()
        for kind in own
        for place in range(2 if kind == "tucker" else 1)
    }


def rank_states(
    sites: Mapping[str, Site], kinds: Mapping[str, Sequence[FactorKind]], rule: RankRule, seed: int
) -> list[NetworkState]:
    """Return the states to time first: some layers, or all, in factors of ranks below break-even.

    They follow from the layers' sizes and the seed alone, so that another run finds them measured.
    """
    rng = np.random.default_rng(seed)
    states = []
    for number in range(PROBES):
        factors = {}
        for name, site in sites.items():
            share, place, height = rng.random(3)
            kind = kinds[name][int(place * len(kinds[name]))]
            most = break_even_rank(site, kind) * (_LOWEST + height * (_HIGHEST - _LOWEST))
            allowed = rule.ranks(min(int(most), min(site.shape) if kind == "tucker" else full_rank(site, kind)))
            if allowed and share < _SHARES[number % len(_SHARES)]:
                factors[name] = Factor(kind, allowed[-1:] * (2 if kind == "tucker" else 1))
        if factors:
            states.append(state_of(factors))
    return list({tuple(each.widths.items()): each for each in states}.values())


class RankModel:
    """The time of a network's file as a share of the whole one's, for any layers in factors. Fitted by `fit_ranks`."""

    def __init__(self, features: _Features, posterior: Posterior, errors: tuple[float, ...]) -> None:
        self._features, self.posterior, self.errors = features, posterior, errors

    def share(self, state: NetworkState) -> float:
        """Return the predicted share of the whole file's time."""
        return float(self._features.row(factors_of(state)) @ self.posterior.shares)

    def layer_share(self, name: str, factor: Factor | None) -> float:
        """Return what one layer takes, as it is (None) or in factors, as a share of the whole file's time."""
        return float(self._features.own(name, factor) @ self.posterior.shares)

    @property
    def classes(self) -> Mapping[str, str]:
        """The class of each layer, such as `conv 3x3`."""
        return self._features.classes


def fit_ranks(
    sites: Mapping[str, Site], whole: NetworkCost, probes: Sequence[Probe], weights: Sequence[float] | None = None
) -> RankModel:
    """Fit the model.

    Args:
        sites: the layers that may be in factors.
        whole: operations of the whole network for one sample, and its parameters.
        probes: what was measured: states, and log(time / time of the whole file).
        weights: of the probes; a probe of weight 10 counts like ten. None: all 1.

    Cost: some milliseconds.
    """
    features = _Features(sites, whole)
    prior = features.prior()
    ratios = np.exp([probe.log_ratio for probe in probes])
    rows = np.array([features.row(factors_of(probe.state)) for probe in probes]).reshape(len(probes), -1)
    counts = np.ones(len(probes)) if weights is None else np.array(weights, np.float64)
    noise = np.square([probe.error for probe in probes])
    unchanged = Observations(features.row({})[None], np.ones(1), np.full(1, _WHOLE_ERROR))

    def observed(error: float) -> Observations:
        errors = np.sqrt((noise + error**2) / counts)
        return Observations(rows / ratios[:, None], np.ones(len(ratios)), errors) + unchanged

    best = max(_MODEL_ERRORS, key=lambda error: log_likelihood(prior, observed(error)))
    posterior = Posterior(prior, observed(best))
    predicted, _ = posterior.left_out()
    return RankModel(features, posterior, tuple(np.abs(predicted[: len(ratios)] - 1).tolist()))


class _Features:
    """Lays out the shares: the rest, then of each layer itself, calls and legs by kind."""

    def __init__(self, sites: Mapping[str, Site], whole: NetworkCost) -> None:
        self.sites, self._whole = dict(sites), _work(whole.macs, whole.parameters)
        self.classes = {name: _class_of(site) for name, site in sites.items()}
        self._places: dict[tuple[str, str], int] = {}
        for name, site in sites.items():
            for part in ("whole", *(f"{what} {kind}" for kind in site.kinds for what in ("calls", "legs"))):
                self._places[name, part] = 1 + len(self._places)

    def row(self, factors: Mapping[str, Factor]) -> Floats:
        """Return the features [F] of a state."""
        row: Floats = np.zeros(1 + len(self._places))
        row[0] = 1
        for name in self.sites:
            row += self.own(name, factors.get(name))
        return row

    def own(self, name: str, factor: Factor | None) -> Floats:
        """Return the features [F] of one layer."""
        row: Floats = np.zeros(1 + len(self._places))
        if factor is None:
            row[self._places[name, "whole"]] = 1
            return row
        site = self.sites[name]
        row[self._places[name, f"calls {factor.kind}"]] = len(factor.ranks)
        row[self._places[name, f"legs {factor.kind}"]] = _legs_work(site, factor) / _site_work(site)
        return row

    def prior(self) -> Prior:
        """Return what is expected: time in proportion to work, and a little for each operator more."""
        shares = {name: (1 - _OVERHEAD) * _site_work(site) / self._whole for name, site in self.sites.items()}
        call = _CALL * _OVERHEAD / len(self.sites)
        columns = list(
            dict.fromkeys(
                column for (name, part) in self._places for column in (self._common(name, part), f"layer {name}")
            )
        )
        mean, common = [max(1 - sum(shares.values()), _OVERHEAD)], np.zeros((1 + len(self._places), len(columns)))
        own = [1.0]
        for (name, part), place in self._places.items():
            calls = part.startswith("calls")
            mean.append(call if calls else shares[name] * (1 if part == "whole" else _LEGS))
            common[place, columns.index(self._common(name, part))] = _CALLS_COMMON if calls else _COMMON
            if not calls:
                common[place, columns.index(f"layer {name}")] = _LAYER
            own.append(_CALLS_OWN if calls else _OWN)
        return Prior(np.array(mean), common, np.array(own))

    def _common(self, name: str, part: str) -> str:
        """Return what a share's unknown factor is shared with: layers of its class, factors of its kind."""
        return part if part.startswith("calls") else f"{part} {self.classes[name]}"


def _class_of(site: Site) -> str:
    """Return the class of a layer, such as `conv 3x3`."""
    kernel: Iterable[int] = getattr(site.layer, "kernel_size", ())
    size = "x".join(map(str, kernel))
    return f"conv {size}" if size else type(site.layer).__name__.lower()


def _work(macs: float, weights: float) -> float:
    return macs + _WEIGHT * weights


def _site_work(site: Site) -> float:
    return _work(site.cost.macs, site.cost.parameters)


def _legs_work(site: Site, factor: Factor) -> float:
    outputs, inputs = site.shape
    legs = leg_costs(site.layer, factor.kind, site.sizes)
    pairs = zip((inputs, *factor.ranks), (*factor.ranks, outputs), strict=True)
    return sum(one * two * _work(leg.macs, leg.parameters) for (one, two), leg in zip(pairs, legs, strict=True))
