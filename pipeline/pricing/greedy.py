"""Measured greedy: one move after another, each the best of some that were measured, for models that are too far off.

In every round each group is narrowed and each block dropped for itself, by as much as should save the round's share of
the way. The moves of least damage per predicted time are measured together on probe files, and the one of least damage
per measured time is taken.

Source: NetAdapt (Yang et al., ECCV 2018). Differs: damage comes from the choices, and only the best few are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.loop import AIM, LOWEST, LoopResult, LoopStep, nearest_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.compress.pruning.allocation.damage import Choices
    from pipeline.pricing.relative import RelativeModel
    from pipeline.pricing.timing import PairedRatio
    from pipeline.results.run import Interval

#: Rounds in which the way should be gone, most rounds, and moves that are measured in one.
_ROUNDS, _MOST_ROUNDS, _MEASURED = 12, 48, 8
#: A move saves time when its gain is more than so many standard errors.
_SEEN = 1.96
#: Of a move's predicted gain, as a fraction of the whole file's time: none is taken for less.
_LEAST = 1e-4


#: A state and its time as a fraction of the whole file's.
_After = tuple[NetworkState, float]


@dataclass(frozen=True)
class Measures:
    """What is measured: log(time of other states / time of a state), by name, and a state's file as it would ship."""

    gains: Callable[[NetworkState, Mapping[str, NetworkState]], Mapping[str, PairedRatio]]
    ratio: Callable[[NetworkState], Interval]


@dataclass(frozen=True)
class _Move:
    state: NetworkState
    damage: float


def greedy_descent(factor: float, now: float, choices: Choices, model: RelativeModel, measures: Measures) -> LoopResult:
    """Take measured moves from the network that is left until its file takes 0.97 to 1.00 of the target.

    Args:
        factor: the target, as a fraction of the whole file's time.
        now: what the file takes before any move.
        choices: what may change, and the damage of each choice.
        model: which moves are worth measuring; it decides no more.
        measures: what measures them.
    """
    state, share, steps = NetworkState(), (now - AIM * factor) / _ROUNDS, list[LoopStep]()
    whole_ms, more, too_far = model.cost({}) / now, 1, list[_After]()
    for _ in range(_MOST_ROUNDS):
        if now <= factor:
            steps.append(LoopStep(state, now, measures.ratio(state)))
            now = steps[-1].measured.value
            if now <= factor:
                break
        wanted = more * max(min(share, now - AIM * factor), _LEAST)
        found = _best(now, _moves(state, choices, model, wanted * whole_ms), measures, state)
        fitting = [each for each in found if each[1] >= LOWEST * factor]
        too_far += [each for each in found if each not in fitting]
        if fitting or wanted > now:  # of those that go too far the nearest, when there is no other
            if not (fitting or too_far):
                break
            nearest = sorted(too_far, key=lambda each: -each[1])
            (state, now), more, too_far = (fitting or nearest)[0], 1, []
        else:
            more *= 2  # steps this small buy nothing
    if not steps or steps[-1].state != state:
        steps.append(LoopStep(state, now, measures.ratio(state)))
    met = LOWEST * factor <= steps[-1].measured.value <= factor
    return LoopResult(steps[-1], tuple(steps), met=True) if met else nearest_step(factor, steps)


def _best(now: float, moves: Mapping[str, _Move], measures: Measures, state: NetworkState) -> list[_After]:
    """Return the states after those of some moves that save time, with their times, the best move's first."""
    gains = measures.gains(state, {name: move.state for name, move in moves.items()}) if moves else {}
    after = {name: now * math.exp(each.log.centre) for name, each in gains.items() if _saves(each)}
    order = sorted(after, key=lambda name: moves[name].damage / (now - after[name]))
    return [(moves[name].state, after[name]) for name in order]


def _saves(gain: PairedRatio) -> bool:
    return gain.log.centre < -_SEEN * gain.log.error


def _moves(state: NetworkState, choices: Choices, model: RelativeModel, wanted: float) -> dict[str, _Move]:
    """Return the moves of least damage per predicted time, each of which should save `wanted` ms or all it can."""
    before = model.cost(state.widths, state.dropped)
    ranked = []
    for name, move in _all_moves(state, choices, model, before - wanted):
        saved = max(before - model.cost(move.state.widths, move.state.dropped), _LEAST * before)
        ranked.append((move.damage / saved, name, move))
    return {name: move for _, name, move in sorted(ranked, key=lambda each: each[:2])[:_MEASURED]}


def _all_moves(
    state: NetworkState, choices: Choices, model: RelativeModel, target: float
) -> Iterator[tuple[str, _Move]]:
    gone = {group for block in state.dropped for group in choices.inside.get(block, ())}
    for group, grid in choices.grids.items():
        here = list(grid).index(state.widths.get(group, grid[-1]))
        if group not in gone and here:
            costs = model.costs(state, group, grid[:here])
            place = max((place for place in range(here) if costs[place] <= target), default=0)
            lost = float(choices.damage[group][place] - choices.damage[group][here])
            yield group, _Move(NetworkState({**state.widths, group: grid[place]}, state.dropped), lost)
    for block in choices.blocks.keys() - state.dropped:
        inside = choices.inside.get(block, frozenset())
        widths = {group: width for group, width in state.widths.items() if group not in inside}
        done = sum(
            float(choices.damage[g][list(choices.grids[g]).index(state.widths[g])])
            for g in inside & state.widths.keys()
        )
        yield block, _Move(NetworkState(widths, state.dropped | {block}), max(0.0, choices.blocks[block] - done))
