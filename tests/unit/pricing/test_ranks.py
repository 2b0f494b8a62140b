"""Prices of layers in factors: states keep their meaning, and a law of times is found again from some tens of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compress.factorization.legs import Factor, build_legs, leg_costs
from pipeline.compress.factorization.options import RankRule, full_rank
from pipeline.compress.factorization.sites import Site, find_sites
from pipeline.compress.pruning.cost import NetworkCost
from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.probes import Probe
from pipeline.pricing.ranks import factors_of, fit_ranks, rank_states, state_of, whole_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

RULE = RankRule(4, 1)
NOISE = 0.004


def network() -> dict[str, Site]:
    """Return the layers of a network of convolutions and linear layers."""
    layers = [nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1), nn.Conv2d(48, 64, 1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 64, 96), nn.Linear(96, 40)).eval()
    sites, _ = find_sites(model, (torch.zeros(2, 8, 8, 8),))
    return {site.name: site for site in sites}


def whole_cost(sites: Mapping[str, Site]) -> NetworkCost:
    """Return operations and parameters of all layers."""
    return NetworkCost(
        sum(site.cost.macs for site in sites.values()), sum(site.cost.parameters for site in sites.values())
    )


def law(sites: Mapping[str, Site], factors: Mapping[str, Factor]) -> float:
    """Return made-up milliseconds: linear layers are five times as fast as convolutions, and each leg more costs."""
    total = 0.3
    for name, site in sites.items():
        speed = 5e-6 if isinstance(site.layer, nn.Conv2d) else 1e-6
        if name not in factors:
            total += speed * site.cost.macs
            continue
        factor = factors[name]
        widths = (site.shape[1], *factor.ranks, site.shape[0])
        legs = leg_costs(site.layer, factor.kind, site.sizes)
        macs = sum(leg.macs * one * two for leg, one, two in zip(legs, widths, widths[1:], strict=False))
        total += 1.5 * speed * macs + 0.05 * len(factor.ranks)
    return total


def probe(sites: Mapping[str, Site], state: NetworkState, rng: np.random.Generator) -> Probe:
    """Measure a state by the law, with noise."""
    ratio = law(sites, factors_of(state)) / law(sites, {})
    return Probe(state, float(np.log(ratio) + rng.normal(0, NOISE)), NOISE)


def test_a_state_says_which_factors_it_has() -> None:
    """Names may have dots and spaces."""
    factors = {"conv": Factor("svd", (8,)), "a.b 1": Factor("tucker", (4, 12)), "a.b": Factor("spatial", (16,))}
    assert factors_of(state_of(factors)) == factors
    assert factors_of(NetworkState()) == {}


def test_states_follow_from_sizes_alone_and_differ() -> None:
    """Another network of these sizes has the same ones, all of ranks on the granule that the layers may have."""
    sites = network()
    kinds = {name: site.kinds for name, site in sites.items()}
    states = rank_states(sites, kinds, RULE, 0)
    assert states == rank_states(network(), kinds, RULE, 0)
    assert len({tuple(state.widths.items()) for state in states}) == len(states) > 20
    full = whole_ranks(sites, kinds)
    for state in states:
        assert state.widths.keys() <= full.keys()
        for name, factor in factors_of(state).items():
            assert all(rank % 4 == 0 for rank in factor.ranks)
            build_legs(sites[name].layer, factor)
    assert {factor.kind for state in states for factor in factors_of(state).values()} == {
        *("svd", "spatial", "channel", "tucker")
    }
    some = rank_states(sites, {name: site.kinds[-1:] for name, site in sites.items()}, RULE, 0)
    assert {factor.kind for state in some for factor in factors_of(state).values()} == {"svd", "tucker"}


@pytest.mark.parametrize("kind", ["spatial", "channel", "tucker"])
def test_full_rank_is_that_of_the_matrix(kind: str) -> None:
    """[C·3, N·3], [C·9, N], and the unfolding along the outputs."""
    site = Site("a", nn.Conv2d(5, 7, 3), ("spatial", "channel", "tucker"), ((6, 6),))
    assert full_rank(site, kind) == {"spatial": 15, "channel": 7, "tucker": 7}[kind]  # type: ignore[arg-type,index]
    assert full_rank(Site("b", nn.Linear(9, 4), ("svd",), ((1,),)), "svd") == 4


def test_the_law_of_times_is_found_again() -> None:
    """States that were not measured are foretold within two per cent, and the layers are told apart by their speed."""
    sites = network()
    kinds = {name: site.kinds for name, site in sites.items()}
    rng = np.random.default_rng(0)
    probes = [probe(sites, state, rng) for state in rank_states(sites, kinds, RULE, 0)]
    model = fit_ranks(sites, whole_cost(sites), probes)
    assert model.share(NetworkState()) == pytest.approx(1, abs=3e-3)
    others = rank_states(sites, kinds, RULE, 1)
    wrong = [model.share(each) / (law(sites, factors_of(each)) / law(sites, {})) - 1 for each in others]
    assert np.quantile(np.abs(wrong), 0.9) < 0.02
    assert np.quantile(model.errors, 0.9) < 0.03
    assert model.classes == {"0": "conv 3x3", "1": "conv 3x3", "2": "conv 1x1", "4": "linear", "5": "linear"}
    whole = law(sites, {})
    for name, speed in {"1": 5e-6, "4": 1e-6}.items():
        assert model.layer_share(name, None) == pytest.approx(speed * sites[name].cost.macs / whole, rel=0.15)


def test_a_layer_that_gains_nothing_has_no_cheaper_factors() -> None:
    """Where each operator more costs as much as a layer, the model says so."""
    sites = network()
    kinds = {name: site.kinds for name, site in sites.items()}
    states = rank_states(sites, kinds, RULE, 0)

    def dear(factors: Mapping[str, Factor]) -> float:
        return 3.0 + sum(len(each.ranks) for each in factors.values())

    probes = [Probe(state, float(np.log(dear(factors_of(state)) / dear({}))), NOISE) for state in states]
    model = fit_ranks(sites, whole_cost(sites), probes)
    for name, site in sites.items():
        for kind in site.kinds:
            ranks = (4,) * (2 if kind == "tucker" else 1)
            assert model.layer_share(name, Factor(kind, ranks)) > model.layer_share(name, None)


def test_a_file_that_ships_weighs_more() -> None:
    """A measurement of weight 100 pulls the prediction of its state towards it."""
    sites = network()
    state = state_of({"1": Factor("spatial", (16,)), "4": Factor("svd", (8,))})
    probes = [
        probe(sites, each, np.random.default_rng(1))
        for each in rank_states(sites, {n: s.kinds for n, s in sites.items()}, RULE, 0)
    ]
    slow = Probe(state, 0.2, NOISE)
    before, light = fit_ranks(sites, whole_cost(sites), probes), fit_ranks(sites, whole_cost(sites), [*probes, slow])
    heavy = fit_ranks(sites, whole_cost(sites), [*probes, slow], [1.0] * len(probes) + [100.0])
    assert before.share(state) < light.share(state) < heavy.share(state) < np.exp(0.2) + 0.01
