"""Ranks of all layers by one budget: the least loss of outputs for what all layers may cost together.

A multiple-choice knapsack, solved by dynamic programming over the cost in fine steps. A share of energy for each layer
alone is offered too: it spends little where much could be saved, and the reverse.

Source: Kellerer, Pferschy and Pisinger, Knapsack Problems (2004), 11.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.factorization.options import Option

    CostKey = Literal["macs", "parameters"]
    #: What a layer costs, by its name, as it is (None) or as one of its options.
    Price = Callable[[str, Option | None], float]
    _Point = tuple[float, float, Option | None]

#: Steps of what is allowed that costs are rounded to.
_STEPS = 20_000


@dataclass(frozen=True)
class LayerChoice:
    """A layer's cost as it is, and what it may become."""

    macs: int
    parameters: int
    options: tuple[Option, ...]


def counted_price(layers: Mapping[str, LayerChoice], cost: CostKey) -> Price:
    """Return the price in operations or in parameters."""

    def price(name: str, option: Option | None) -> float:
        return float(getattr(layers[name] if option is None else option, cost))

    return price


def cheapest_loss(layers: Mapping[str, LayerChoice], price: Price, allowed: float) -> dict[str, Option]:
    """Return an option for each layer that is factorised: of all with which layers cost at most `allowed`, the best.

    The sum of errors is the least possible but for costs that are rounded to a 20,000th of what is allowed.

    Raises InputError where the cheapest options cost more.

    Cost: some tens of milliseconds.
    """
    if (least := least_cost(layers, price)) > allowed:
        raise InputError(f"the layers' least ranks leave {least:.6g}, expected at most {allowed:.6g}")
    unit = max(allowed, np.finfo(float).tiny) / _STEPS
    points = {name: _steps_down(name, layer.options, price) for name, layer in layers.items()}
    best = np.zeros(_STEPS + len(layers) + 1)  # least error of the layers so far that cost at most so many units
    taken = []
    for each in points.values():
        units = [round(cost / unit) for cost, _, _ in each]
        errors = np.stack([_shifted(best, count) + error for count, (_, error, _) in zip(units, each, strict=True)])
        taken.append((each, units, errors.argmin(0)))
        best = errors.min(0)
    for end in range(len(best) - 1, -1, -1):  # costs were rounded: the most units with which the true ones are allowed
        if not np.isfinite(best[end]):
            break
        chosen, total = _traced(taken, end)
        if total <= allowed:
            return {name: option for name, option in zip(points, chosen, strict=True) if option}
    return {name: option for name, each in points.items() if (option := each[-1][2])}


def least_cost(layers: Mapping[str, LayerChoice], price: Price) -> float:
    """Return what all layers cost, each as it is or with its cheapest option."""
    return float(sum(min(price(name, each) for each in (None, *own.options)) for name, own in layers.items()))


def within_error(layers: Mapping[str, LayerChoice], error: float) -> dict[str, Option]:
    """Return for each layer the option of fewest operations that loses at most this share of its output's energy."""
    fitting = {name: [each for each in layer.options if each.error <= error] for name, layer in layers.items()}
    return {name: min(each, key=lambda one: (one.macs, one.error)) for name, each in fitting.items() if each}


def _steps_down(name: str, options: Sequence[Option], price: Price) -> list[_Point]:
    """Return cost, error and option of the layer as it is (None), then of what costs less and less and loses more."""
    points = [(price(name, None), 0.0, None), *((price(name, each), each.error, each) for each in options)]
    found: list[_Point] = []
    for point in sorted(points, key=lambda each: (each[1], each[0])):
        if not found or point[0] < found[-1][0]:
            found.append(point)
    return found


def _shifted(best: NDArray[np.float64], units: int) -> NDArray[np.float64]:
    """Return the least errors where so many units are spent already."""
    spent: NDArray[np.float64] = np.full(len(best), np.inf)
    if units < len(best):
        spent[units:] = best[: len(best) - units]
    return spent


def _traced(
    taken: Sequence[tuple[list[_Point], list[int], NDArray[np.intp]]], end: int
) -> tuple[list[Option | None], float]:
    """Return what each layer becomes where all cost at most `end` units, and what they really cost."""
    chosen: list[Option | None] = []
    total = 0.0
    for points, units, places in reversed(taken):
        place = int(places[end])
        total += points[place][0]
        chosen.append(points[place][2])
        end -= units[place]
    return chosen[::-1], total
