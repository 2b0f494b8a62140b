"""What each move of a plan has bought: the state with that one move taken back, against the state with all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.model import LatencyModel
from pipeline.results.latency_target import LatencyMove
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.pricing.relative import TimeModel
    from pipeline.pricing.timing import PairedRatio

#: A move buys something when its measured gain is more than so many standard errors.
_SEEN = 1.96
#: Nodes that are named, and the share of the file's time below which a saving is none.
_NAMED, _LEAST = 2, 1e-4


def without_each_move(state: NetworkState) -> dict[str, NetworkState]:
    """Return for every group that is narrower and every block that is gone the state with that one whole again."""
    found = {}
    for name in state.widths:
        found[name] = NetworkState({group: w for group, w in state.widths.items() if group != name}, state.dropped)
    for name in sorted(state.dropped):
        found[name] = NetworkState(state.widths, state.dropped - {name})
    return found


def bought_nothing(measured: Mapping[str, PairedRatio]) -> list[str]:
    """Return the moves whose gain is within the noise: log(time without that move / time of the state) by move."""
    return [name for name, each in measured.items() if each.log.centre < _SEEN * each.log.error]


def without_moves(state: NetworkState, names: list[str]) -> NetworkState:
    """Return the state without these moves."""
    widths = {name: width for name, width in state.widths.items() if name not in names}
    return NetworkState(widths, state.dropped - set(names))


@dataclass(frozen=True)
class Moved:
    """A state with all moves, the widths by group before, and the groups whose classes are attention heads."""

    state: NetworkState
    whole: Mapping[str, int]
    heads: frozenset[str] = frozenset()


def told_moves(
    moved: Moved, model: TimeModel, measured: Mapping[str, PairedRatio], damage: Mapping[str, float]
) -> tuple[LatencyMove, ...]:
    """Return every move of a state with its milliseconds, those that save most first.

    Args:
        moved: the state and what it came from.
        model: what predicts times.
        measured: by move log(time without that move / time of the state); those that were not measured are missing.
        damage: what each move was expected to cost.
    """
    state, whole, heads = moved.state, moved.whole, moved.heads
    time = model.cost(state.widths, state.dropped)
    moves = []
    for name, other in without_each_move(state).items():
        is_block = name in state.dropped
        moves.append(
            LatencyMove(
                kind="block" if is_block else "heads" if name in heads else "channels",
                name=name,
                before=1 if is_block else whole[name],
                after=0 if is_block else state.widths[name],
                predicted_ms=time - model.cost(other.widths, other.dropped),
                measured_ms=saved_milliseconds(measured[name], time) if name in measured else None,
                damage=damage.get(name),
                bought=_bought(model, state, other),
            )
        )
    return tuple(sorted(moves, key=lambda move: -move.saved_ms))


def _bought(model: TimeModel, state: NetworkState, other: NetworkState) -> str:
    """Say which nodes a move saves most time in, by the model; empty where it does not know them."""
    if not isinstance(model, LatencyModel):
        return ""
    before, after = model.node_times(other), model.node_times(state)
    saved = {name: ms - after[name] for name, ms in before.items() if ms - after[name] > _LEAST * sum(before.values())}
    names = sorted(saved, key=lambda name: (-saved[name], name))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"less time in {', '.join(names[:_NAMED])}{more}" if names else ""


def saved_milliseconds(found: PairedRatio, time: float) -> Interval:
    """Return the change in milliseconds, below zero where the move saves time, from log(time without it / time)."""
    ratio = found.ratio
    ends = [time * (1 - each) for each in (ratio.value, ratio.high, ratio.low)]
    return Interval(value=ends[0], low=ends[1], high=ends[2], level=ratio.level)
