"""What a layer may become: kinds and ranks, each with its cost and the relative error of the layer's output."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from pipeline.compress.factorization.legs import Factor, layer_matrix, leg_costs
from pipeline.compress.factorization.matrices import factor_matrix, output_energy, whitening_root
from pipeline.compress.factorization.spatial import factor_spatial, spatial_energies
from pipeline.compress.factorization.tucker import factor_tucker, tucker_energies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from pipeline.compress.factorization.legs import LegCost
    from pipeline.compress.factorization.names import FactorKind
    from pipeline.compress.factorization.sites import Site

#: First ranks of a Tucker decomposition that are looked at, spread evenly.
_INNER = 8


@dataclass(frozen=True)
class Option:
    """One way to write a layer.

    Attributes:
        factor: kind and ranks.
        macs: operations of one sample in all legs.
        parameters: weights of all legs.
        error: mean of ‖(W - Ŵ) x‖² over that of ‖W x‖²: of tucker that of the HOSVD, near which HOOI ends.
    """

    factor: Factor
    macs: int
    parameters: int
    error: float


@dataclass(frozen=True)
class RankRule:
    """Ranks are multiples of `align`, and at least `least`."""

    align: int
    least: int

    def ranks(self, most: int) -> tuple[int, ...]:
        """Return the ranks up to `most`."""
        first = -(-max(self.least, self.align) // self.align) * self.align
        return tuple(range(first, most + 1, self.align))


def layer_options(site: Site, kinds: Sequence[FactorKind], gram: Tensor | None, rule: RankRule) -> tuple[Option, ...]:
    """Return what costs less than the layer in operations and in parameters, for each kind and rank.

    Args:
        site: the layer.
        kinds: of those that fit the layer, what to try.
        gram: [P, P], the second moments of its inputs; None: those of the identity.
        rule: which ranks.

    Raises ValueError where inputs or outputs of the layer are zero. Cost: an SVD a kind, of tucker 8 regressions.
    """
    weight = layer_matrix(site.layer)
    whole = output_energy(weight.flatten(1), gram)
    if not whole > 0:
        raise ValueError("its outputs are zero on these inputs")
    found = []
    for kind in kinds:
        costs = leg_costs(site.layer, kind, site.sizes)
        for ranks, kept in _energies(site, kind, gram, rule):
            macs, parameters = _cost(site, costs, ranks)
            if macs < site.cost.macs and parameters < site.cost.parameters:
                found.append(Option(Factor(kind, ranks), macs, parameters, max(1 - kept / whole, 0.0)))
    return tuple(found)


def break_even_rank(site: Site, kind: FactorKind) -> float:
    """Return the rank from which two legs cost as much as the layer: mn/(m+n) of a matrix [m, n].

    Of the spatial kind CNK/(C+N), of the channel kind CNK²/(CK²+N), and less where strides make the second leg's
    positions more; of tucker for two equal ranks.
    """
    outputs, inputs = site.shape
    costs = leg_costs(site.layer, kind, site.sizes)
    bounds = []
    for name in ("macs", "parameters"):
        whole, each = getattr(site.cost, name), [getattr(cost, name) for cost in costs]
        linear = inputs * each[0] + outputs * each[-1]
        square = each[1] if kind == "tucker" else 0
        bounds.append(((linear**2 + 4 * square * whole) ** 0.5 - linear) / (2 * square) if square else whole / linear)
    return float(min(bounds))


def full_rank(site: Site, kind: FactorKind) -> int:
    """Return the rank with which factors are the layer itself; of tucker that behind the second leg."""
    outputs, inputs = site.shape
    kernel = tuple(layer_matrix(site.layer).shape[2:])
    if kind == "tucker":
        return outputs
    if kind == "spatial":
        return min(inputs * kernel[0], outputs * kernel[1])
    return min(outputs, inputs * prod(kernel))


def factor_weights(layer_weight: Tensor, factor: Factor, gram: Tensor | None) -> tuple[Tensor, ...]:
    """Return the weights of the legs, float64: [r, C, ..], ..., [N, r, ..]."""
    if factor.kind == "tucker":
        inner, outer = factor.ranks
        return factor_tucker(layer_weight, (inner, outer), gram)
    (rank,) = factor.ranks
    if factor.kind == "spatial":
        return factor_spatial(layer_weight, rank, gram)
    left, right = factor_matrix(layer_weight.flatten(1), None if gram is None else whitening_root(gram)).cut(rank)
    kernel = layer_weight.shape[2:]
    return right.reshape(rank, layer_weight.shape[1], *kernel), left.reshape(len(left), rank, *(1 for _ in kernel))


def _energies(
    site: Site, kind: FactorKind, gram: Tensor | None, rule: RankRule
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield ranks, and how much of the output's energy they keep."""
    weight = layer_matrix(site.layer)
    if kind == "tucker":
        inner = rule.ranks(weight.shape[1])
        chosen = inner[:: -(-len(inner) // _INNER)] if inner else ()
        for rank, kept in tucker_energies(weight, chosen, gram).items():
            yield from (((rank, outer), float(kept[outer - 1])) for outer in rule.ranks(len(kept)))
        return
    if kind == "spatial":
        kept = spatial_energies(weight, ceil(break_even_rank(site, kind)), gram)
    else:
        root = None if gram is None else whitening_root(gram)
        kept = factor_matrix(weight.flatten(1), root).values.square().cumsum(0)
    yield from (((rank,), float(kept[rank - 1])) for rank in rule.ranks(len(kept)))


def _cost(site: Site, legs: Sequence[LegCost], ranks: Sequence[int]) -> tuple[int, int]:
    """Return operations and parameters of the legs."""
    outputs, inputs = site.shape
    pairs = [one * two for one, two in zip((inputs, *ranks), (*ranks, outputs), strict=True)]
    macs = sum(pair * leg.macs for pair, leg in zip(pairs, legs, strict=True))
    return macs, sum(pair * leg.parameters for pair, leg in zip(pairs, legs, strict=True))
