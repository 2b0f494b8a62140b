"""Ranks of all layers by one budget: what loses the least of its layer's output for what it saves goes first.

One price holds for all layers. Of each layer only those options count that lie on the lower convex hull of error over
cost, so that steps along it get dearer and dearer, and taking the cheapest step anywhere is the best for the cost that
is then reached (the Lagrangian of a multiple-choice knapsack). A share of energy for each layer alone is offered too:
it spends little where much could be saved, and the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.compress.factorization.options import Option

    CostKey = Literal["macs", "parameters"]


@dataclass(frozen=True)
class LayerChoice:
    """A layer's cost as it is, and what it may become."""

    macs: int
    parameters: int
    options: tuple[Option, ...]


def cheapest_loss(layers: Mapping[str, LayerChoice], cost: CostKey, allowed: float) -> dict[str, Option]:
    """Return an option for each layer that is factorised, so that all layers together cost at most `allowed`.

    Raises InputError where the cheapest options cost more.
    """
    hulls = {name: lower_hull(layer, cost) for name, layer in layers.items()}
    left = sum(float(getattr(layer, cost)) for layer in layers.values())
    if (least := least_cost(layers, cost)) > allowed:
        raise InputError(f"the layers' least ranks leave {least:.6g} {cost}, expected at most {allowed:.6g}")
    steps = sorted(
        (_slope(one, two), name, number)
        for name, hull in hulls.items()
        for number, (one, two) in enumerate(pairwise(hull), 1)
    )
    reached = dict.fromkeys(layers, 0)
    for _, name, number in steps:
        if left <= allowed:
            break
        left += hulls[name][number][0] - hulls[name][number - 1][0]
        reached[name] = number
        last = name
    chosen = {name: option for name, number in reached.items() if (option := hulls[name][number][2])}
    if chosen:
        chosen |= _refined(layers[last], cost, allowed - left, last, chosen)
    return chosen


def least_cost(layers: Mapping[str, LayerChoice], cost: CostKey) -> float:
    """Return what all layers cost with their cheapest options."""
    return float(sum(min(getattr(each, cost) for each in layer.options) for layer in layers.values()))


def within_error(layers: Mapping[str, LayerChoice], error: float) -> dict[str, Option]:
    """Return for each layer the option of fewest operations that loses at most this share of its output's energy."""
    fitting = {name: [each for each in layer.options if each.error <= error] for name, layer in layers.items()}
    return {name: min(each, key=lambda one: (one.macs, one.error)) for name, each in fitting.items() if each}


def lower_hull(layer: LayerChoice, cost: CostKey) -> list[tuple[float, float, Option | None]]:
    """Return cost, error and option of the lower convex hull, from the layer as it is (None) to what costs least."""
    points: Sequence[tuple[float, float, Option | None]] = sorted(
        [(float(getattr(each, cost)), each.error, each) for each in layer.options], key=lambda point: point[:2]
    )
    best: list[tuple[float, float, Option | None]] = []
    for point in [*points, (float(getattr(layer, cost)), 0.0, None)]:
        if best and point[1] >= best[-1][1] and point[2] is not None:
            continue  # costs more and loses as much
        while len(best) > 1 and _slope(best[-1], best[-2]) <= _slope(point, best[-1]):
            best.pop()
        best.append(point)
    return best[::-1]


def _slope(dear: tuple[float, float, Option | None], cheap: tuple[float, float, Option | None]) -> float:
    """Return what error a step from a dear to a cheap point adds for each unit of cost that it saves."""
    return (cheap[1] - dear[1]) / (dear[0] - cheap[0])


def _refined(
    layer: LayerChoice, cost: CostKey, spare: float, name: str, chosen: Mapping[str, Option]
) -> dict[str, Option]:
    """Return for the layer of the last step what loses least of all that the budget still allows."""
    if name not in chosen:
        return {}
    most = getattr(chosen[name], cost) + spare
    return {name: min((each for each in layer.options if getattr(each, cost) <= most), key=lambda each: each.error)}
