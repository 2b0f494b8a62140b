"""Damage of moves together: blocks and groups that each do little harm alone may do much together.

A search adds up damages. Here its plans are applied and their loss is measured: a move whose removal from the plan
would undo more damage than it does alone gets a higher price, one that undoes less a lower one, and the search goes on
with these. Then some prices are drawn at random around the best. Of all plans, the one of least measured loss gives the
prices that are used.

Source: the random search over layers' weights by measured loss of SPDY (Frantar and Alistarh, ICML 2022). Differs:
prices first follow what each move costs within the plan, and plans are judged with renewed batch-norm statistics.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.pricing.moves import without_each_move

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.compress.pruning.allocation.damage import Choices
    from pipeline.compress.pruning.state import NetworkState

#: How often prices follow what moves cost within a plan, of how many moves, and how many prices are then drawn.
ROUNDS, MOVES, DRAWN = 2, 10, 4
#: Most that a price changes by in one round, and the spread of drawn prices (of their logarithm).
_MOST, _SPREAD = 4.0, 0.5


def price_together(
    choices: Choices,
    solve: Callable[[Choices], NetworkState],
    loss: Callable[[NetworkState], float],
    *,
    seed: int,
    told: Callable[[int, int, str], None],
) -> tuple[Choices, list[float]]:
    """Return the choices with the prices whose plan loses least, and the measured loss of every plan.

    Args:
        choices: damage of each move alone.
        solve: the plan for some prices, at the target.
        loss: the measured loss of a plan.
        seed: of the prices that are drawn.
        told: is given the number of rounds done, of all, and what is done.

    Cost: one loss for each of the dearest moves of a plan in each round, and one for each plan.
    """
    rng = np.random.default_rng(seed)
    known: dict[object, float] = {}

    def measured(state: NetworkState) -> float:
        key = tuple(sorted(state.widths.items())), state.dropped
        if key not in known:
            known[key] = loss(state)
        return known[key]

    now, state = choices, solve(choices)
    best, least, losses = choices, measured(state), [measured(state)]

    def judged(prices: Choices) -> NetworkState:
        nonlocal best, least
        found = solve(prices)
        losses.append(measured(found))
        if losses[-1] < least:
            best, least = prices, losses[-1]
        return found

    for turn in range(ROUNDS):
        told(turn, ROUNDS + 1, "damage of moves together")
        total = measured(state)
        others = without_each_move(state)
        dearest = sorted(others, key=lambda name: -_price(now, state, name))[:MOVES]
        within = {name: total - measured(others[name]) for name in dearest}
        now = _repriced(now, state, within)
        state = judged(now)
    told(ROUNDS, ROUNDS + 1, "damage of other plans")
    for _ in range(DRAWN):
        judged(_times(best, {name: math.exp(_SPREAD * rng.standard_normal()) for name in _names(best)}))
    return best, losses


def _repriced(choices: Choices, state: NetworkState, within: Mapping[str, float]) -> Choices:
    """Return the choices with the price of each move of a plan half way, in logarithm, to what it costs there."""
    factors = {}
    for name, cost in within.items():
        if (alone := _price(choices, state, name)) > 0:
            ratio = min(max(cost / alone, _MOST**-2), _MOST**2)
            factors[name] = math.sqrt(ratio)
    return _times(choices, factors)


def _price(choices: Choices, state: NetworkState, name: str) -> float:
    """Return the damage that is expected of one move of a plan."""
    if name in state.dropped:
        return choices.blocks[name]
    return float(choices.damage[name][list(choices.grids[name]).index(state.widths[name])])


def _names(choices: Choices) -> tuple[str, ...]:
    return (*choices.grids, *choices.blocks)


def _times(choices: Choices, factors: Mapping[str, float]) -> Choices:
    damage = {name: curve * factors.get(name, 1.0) for name, curve in choices.damage.items()}
    blocks = {name: price * factors.get(name, 1.0) for name, price in choices.blocks.items()}
    return replace(choices, damage=damage, blocks=blocks)
