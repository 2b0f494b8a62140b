"""Where the milliseconds went, as text that every form of the report shares: the verdict, its terms, moves, layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.sharing import SHARING
from pipeline.core.sparsity import SPARSITY
from pipeline.report import numbers
from pipeline.report.run.gains import result, timing
from pipeline.report.run.precision_rows import beside_plan
from pipeline.report.run.rows import Cell, place
from pipeline.results.latency_target import LATENCY, LatencyTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.sparsity import LayerZeros, Sparsity
    from pipeline.report.run.facts import Facts
    from pipeline.results.latency_target import LatencyMove, LayerTimes, TriedSize
    from pipeline.results.run import Interval, Row, RunReport

#: Layers that a report names; the rest share a line. The terminal names as many moves.
LARGEST = 12
#: What has to be known to read the table of moves.
READ = (
    "What was taken from the network, what saves most first. Milliseconds below zero are saved; those that were "
    "measured have brackets with their interval. Damage is what the search expected a move to cost, by its scores."
)
#: The same for the table of layers.
READ_LAYERS = (
    "The time of each node of the file, as the cost model divides it. What a node costs beside its widths (the "
    "operator's overhead) is part of it."
)


@dataclass(frozen=True)
class MoveLine:
    """One move as text."""

    name: str
    kind: str
    change: str
    predicted: str
    measured: Cell
    damage: str
    bought: str


@dataclass(frozen=True)
class LayerLine:
    """One layer, or several together, as text; milliseconds as they are for a drawing."""

    name: str
    operator: str
    before: str
    after: str
    change: str
    before_ms: float
    after_ms: float


def aims(report: RunReport) -> tuple[tuple[Row, LatencyTarget], ...]:
    """Return the rows whose stage compressed to a latency, with what it found.

    Raises ValidationError when a row's record is not one of this version.
    """
    return tuple(
        (row, LatencyTarget.model_validate(row.changed[LATENCY])) for row in report.rows if LATENCY in row.changed
    )


def beside(row: Row) -> dict[str, Any]:
    """Return what a stage changed without what has a section of its own: a latency, a search for a precision.

    Zeros are told as "90 of 100" for each layer, values as "16 among 100 weights".
    """
    found = {key: value for key, value in beside_plan(row).items() if key != LATENCY}
    if row.sharing is not None:
        del found[SHARING]
        layers = row.sharing.layers.items()
        found["values"] = {name: f"{each.values:,} among {each.weights:,} weights" for name, each in layers}
    if row.sparsity is None:
        return found
    zeros: dict[str, LayerZeros | Sparsity] = {"all layers": row.sparsity, **row.sparsity.layers}
    del found[SPARSITY]
    return {**found, "zeros": {name: f"{each.zeros:,} of {each.weights:,}" for name, each in zeros.items()}}


def title(row: Row) -> str:
    """Write the section's heading."""
    return f"Where the milliseconds went: stage {row.index} {row.label}"


def verdict(found: LatencyTarget) -> str:
    """Write what was asked for, what was measured, whether that is enough, and what else could be had."""
    asked = found.factor * found.whole_ms.value
    of_it = f"of the {_whole(found)} {found.precision} file"
    wanted = f"{_factor(found.factor)} {of_it}, {numbers.milliseconds(asked)}"
    if found.asked.factor is None:
        wanted = f"{numbers.milliseconds(asked)}, {_factor(found.factor)} {of_it}"
    took = numbers.milliseconds(found.ratio.value * found.whole_ms.value)
    measured = f"{_factor(found.ratio.value)} {numbers.bounds(found.ratio)}, {took}"
    return f"Asked for {wanted}; measured {measured}: {_end(found)}."


def _whole(found: LatencyTarget) -> str:
    """Name the file that times are shares of by what it lacks."""
    return "unfactorised" if any(move.kind == "rank" for move in found.moves) else "unpruned"


def _end(found: LatencyTarget) -> str:
    """Write whether that is what was asked for; a file that is faster than asked is within it."""
    if found.met:
        return "met"
    if found.is_within:
        return f"within it, {100 * (1 - found.ratio.value / found.factor):.0f} % faster than asked{_nearest(found)}"
    return f"missed{_nearest(found)}"


def about(report: RunReport, found: LatencyTarget) -> Facts:
    """Return the terms: where and as what files were timed, at first and at the end, the floor, the cost model."""
    facts = [
        ("Target", f"{place(found.runtime, found.threads)}, on {found.device}, {found.precision}"),
        (_whole(found).capitalize(), _milliseconds(found.whole_ms)),
        *_original(found),
        *_shipped(report, found),
    ]
    if found.floor:
        facts.append(("Floor", f"{_factor(found.floor.factor)}: {found.floor.why}"))
    facts.append(("Cost model", _model(found)))
    if found.model.granules:
        steps = ", ".join(f"{name} {step}" for name, step in sorted(found.model.granules.items()))
        facts.append(("Steps of width", steps))
    if found.corrections:
        told = (f"{_factor(each.predicted)} was {_factor(each.measured)}" for each in found.corrections)
        facts.append(("Files timed on the way", f"predicted {'; predicted '.join(told)}"))
    if found.sizes:
        facts.append(("Sizes of images", "; ".join(map(_size, found.sizes))))
    if found.undone:
        facts.append(("Undone, as it bought nothing", ", ".join(found.undone)))
    return tuple(facts)


def move_lines(found: LatencyTarget, most: int | None = None) -> tuple[MoveLine, ...]:
    """Return the moves, what saves most first; with `most` the others in one line."""
    moves = sorted(found.moves, key=lambda move: (-move.saved_ms, move.name))
    shown = tuple(map(_move, moves[:most]))
    return (*shown, _others(moves[most:])) if most and len(moves) > most else shown


def layer_lines(found: LatencyTarget) -> tuple[LayerLine, ...]:
    """Return the layers that took most at first, and the others in one line."""
    layers = sorted(found.layers, key=lambda layer: (-layer.before_ms, layer.name))
    shown = [_layer(each.name, each.operator, [each]) for each in layers[:LARGEST]]
    rest = layers[LARGEST:]
    return (*shown, *([_layer(f"{numbers.plural(len(rest), 'other node')}", "", rest)] if rest else []))


def _nearest(found: LatencyTarget) -> str:
    if found.nearest is None:
        return ""
    sides = (None if found.is_within else found.nearest.below, found.nearest.above)
    told = [
        f"{_factor(side)} ({numbers.milliseconds(side * found.whole_ms.value)})" for side in sides if side is not None
    ]
    return f"; the nearest that was tried{' above it' if found.is_within else ''}: {' and '.join(told)}" if told else ""


def _original(found: LatencyTarget) -> Facts:
    """Return the original float file's time, from which budgets count, and the result's share of it."""
    if found.whole_float_ms is None:
        return ()
    share = found.ratio.value * found.whole_ms.value / found.whole_float_ms.value
    told = f"{_milliseconds(found.whole_float_ms)}; the result takes {_factor(share)} of that, from which budgets count"
    return (("Original in float", told),)


def _shipped(report: RunReport, found: LatencyTarget) -> Facts:
    """Compare the file that ships with the target: by its speedup over the original float file, where that is known."""
    target = report.target.model_copy(update={"runtime": found.runtime, "threads": found.threads})
    taken = timing(result(report), target)
    if taken is None or taken.speedup is None or taken.time_scope != "model" or found.whole_float_ms is None:
        return ()
    scale = found.whole_float_ms.value / found.whole_ms.value
    speed = taken.speedup
    share = speed.model_copy(
        update={"value": scale / speed.value, "low": scale / speed.high, "high": scale / speed.low}
    )
    end = "within the target" if share.value <= found.factor else "above the target"
    of_it = f"of the {_whole(found)} file, by the measurements of the run"
    told = f"{_factor(share.value)} {numbers.bounds(share)} {of_it}: {end}"
    return (("File that ships", told),)


def _size(tried: TriedSize) -> str:
    """Write what was found of images of one size."""
    takes = f", {_factor(tried.ratio.value)} {numbers.bounds(tried.ratio)}" if tried.ratio else ""
    loss = "" if tried.loss is None else f", loss {numbers.significant(tried.loss)}"
    return f"{tried.side} px{takes}{loss}: {tried.why or 'chosen'}"


def _model(found: LatencyTarget) -> str:
    model = found.model
    if not model.probes:
        return "none was needed: whole files were timed at each size of images"
    made = f"{numbers.plural(model.probes, 'probe')} in {numbers.duration(model.seconds)}"
    off = f"off by {100 * model.median_error:.1f} % in the median and {100 * model.p90_error:.1f} % in one of ten"
    why = "too far off to be trusted" if found.layers else "it knows operations alone, since the file has no template"
    trust = "" if model.trusted else f"; {why}, so that every step was measured"
    return f"{made}, {off}{trust}; predicted {_factor(found.predicted)}"


def _move(move: LatencyMove) -> MoveLine:
    measured = move.measured_ms
    left = "removed" if move.kind == "block" else f"{move.before} {numbers.ARROW} {move.after}"
    left += " px" if move.kind == "resolution" else ""
    return MoveLine(
        name=move.name,
        kind=move.kind,
        change=left,
        predicted=_change(move.predicted_ms),
        measured=Cell(_change(measured.value), _signed_bounds(measured)) if measured else Cell(),
        damage=numbers.DASH if move.damage is None else numbers.significant(move.damage),
        bought=move.bought,
    )


def _others(moves: Sequence[LatencyMove]) -> MoveLine:
    name = numbers.plural(len(moves), "other move")
    saved = _change(-sum(move.saved_ms for move in moves))
    return MoveLine(name, "", "", saved, Cell(), numbers.DASH, "")


def _layer(name: str, operator: str, layers: Sequence[LayerTimes]) -> LayerLine:
    before, after = sum(each.before_ms for each in layers), sum(each.after_ms or 0.0 for each in layers)
    gone = all(each.after_ms is None for each in layers)
    told = "removed" if gone else numbers.milliseconds(after)
    change = 0.0 if math.isclose(before, after) else after - before  # sums of equal times differ in the last bit
    return LayerLine(name, operator, numbers.milliseconds(before), told, _change(change), before, after)


def _factor(value: float) -> str:
    """Write a factor with three significant digits: a target is met within a few per cent of it."""
    return f"{numbers.significant(value)}x"


def _milliseconds(interval: Interval) -> str:
    return f"{numbers.milliseconds(interval.value)} {numbers.bounds(interval)}".rstrip()


def _change(milliseconds: float) -> str:
    """Write a signed change of a time."""
    return f"{numbers.signed(milliseconds, numbers.decimal_places(milliseconds))} ms"


def _signed_bounds(interval: Interval) -> str:
    decimals = numbers.decimal_places(interval.value)
    return f"[{numbers.signed(interval.low, decimals)}, {numbers.signed(interval.high, decimals)}]"
