"""The search for a precision as text that every form of the report shares: its terms, every file tried, layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.task import ACCURACY
from pipeline.report import numbers
from pipeline.report.inspection.file_rows import format_decibels, format_share
from pipeline.report.run.rows import Cell, place
from pipeline.results.precision import PLAN, PrecisionPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.core.task import MetricFacts
    from pipeline.report.run.facts import Facts
    from pipeline.report.run.gains import Tone
    from pipeline.results.precision import CandidateFile, LayerChoice, State
    from pipeline.results.run import Interval, Row, RunReport

_WORDS: Mapping[State, str] = {"chosen": "chosen", "kept": "kept", "dropped": "dropped", "missing": "not installed"}
_TONES: Mapping[State, Tone] = {"chosen": "better", "kept": "plain", "dropped": "worse", "missing": "unsure"}

#: What has to be known to read the table of candidates.
READ = (
    "The score is that of the exported file in the target's runtime on the validation split; below it is the paired "
    "change from the float file. Speedups are paired with the float file on the target. Brackets hold "
    "intervals. A dash is a number that was not measured."
)
#: The same for the table of layers.
READ_LAYERS = (
    "Layers and families of layers were tried in float again, each alone, compared with an int8 file: what that gains "
    "in signal-to-quantization-noise ratio, and how many times as fast the file then is."
)


@dataclass(frozen=True)
class CandidateLine:
    """One candidate as text. `state` names it for the style sheet, `verdict` in words."""

    number: int
    label: str
    state: State
    verdict: str
    tone: Tone
    reason: str
    engine: str
    precision: Cell
    calibration: str
    recovery: str
    in_float: str
    nodes: tuple[str, ...]
    decibels: str
    accuracy: Cell
    latency: Cell
    speedup: Cell
    saturated: str
    size: str


@dataclass(frozen=True)
class LayerLine:
    """One layer, or a family of layers, that was tried in float, as text."""

    name: str
    nodes: tuple[str, ...]
    decibels: str
    speedup: Cell
    verdict: str
    reason: str


def searches(report: RunReport) -> tuple[tuple[Row, PrecisionPlan], ...]:
    """Return the rows whose stage searched for a precision, with what it tried.

    Raises ValidationError when a row's plan is not one of this version.
    """
    return tuple((row, PrecisionPlan.model_validate(row.changed[PLAN])) for row in report.rows if _searched(row))


def beside_plan(row: Row) -> dict[str, Any]:
    """Return what a stage changed without the search, which has a section of its own."""
    return {key: value for key, value in row.changed.items() if not (key == PLAN and _searched(row))}


def title(row: Row) -> str:
    """Write the section's heading."""
    return f"Which precision, and why: stage {row.index} {row.label}"


def about(plan: PrecisionPlan) -> Facts:
    """Return on what terms files were tried: target, what is known of it, what may be lost, images, time."""
    source = f" (source: {plan.facts_source})" if plan.facts_source else ""
    return (
        ("Target", f"{place(plan.runtime, plan.threads)}, on {plan.device}"),
        ("Known about it", f"{plan.facts.rstrip('.')}{source}"),
        ("CPU flags", " ".join(plan.flags) or numbers.DASH),
        (
            f"{numbers.metric_name(plan.metric.name)} that may be lost",
            f"{allowed(plan)} of {'its value' if plan.drop_unit == '%' else plan.metric.name}",
        ),
        ("Calibration", _calibration(plan)),
        ("Validation", numbers.plural(plan.validation_images, "image")),
        ("Search", f"{numbers.plural(len(plan.candidates), 'candidate')}, {numbers.duration(plan.seconds)}"),
    )


def allowed(plan: PrecisionPlan) -> str:
    """Write how much of the score may be lost: "0.5 points", "2 %" or "0.2 dB"."""
    unit = {"pt": "point" if plan.accuracy_drop == 1 else "points"}.get(plan.drop_unit, plan.drop_unit)
    return f"{plan.accuracy_drop:g} {unit}"


def allowed_change(plan: PrecisionPlan) -> str:
    """Write the change that is just allowed: "-0.50 points", "-2 %" or "-0.2 dB"."""
    if plan.drop_unit == "pt":
        return f"{numbers.points(-plan.accuracy_drop / 100)} points"
    sign = numbers.MINUS if plan.metric.higher_is_better or plan.drop_unit == "%" else "+"
    return f"{sign}{allowed(plan)}"


def score_heading(plan: PrecisionPlan) -> tuple[str, str]:
    """Return the name of the metric that files are judged by, and the unit of its changes."""
    return numbers.metric_name(plan.metric.name), numbers.score_change_unit(plan.metric)


def conclusion(plan: PrecisionPlan) -> tuple[str, str]:
    """Return the label of the file that ships, and what it brings over the float file in a sentence."""
    won = plan.winner
    if plan.chosen == 0:
        return won.label, _sentence(won.reason) or "No candidate was better than the float file."
    factor = f"{_whole(won.speedup)} the speed" if won.speedup else "speed not measured"
    unit = numbers.score_change_unit(plan.metric)
    change = f"{_change(won.difference, plan.metric)} {unit}" if won.difference else f"{plan.metric.name} not compared"
    told = f"Over the float file: {factor}, {change}, {numbers.size(won.size_bytes)}."
    return won.label, f"{told} {_sentence(won.reason)}".rstrip()


def lines(plan: PrecisionPlan) -> tuple[CandidateLine, ...]:
    """Return every candidate, the float file first."""
    return tuple(line(number, candidate, plan.metric) for number, candidate in enumerate(plan.candidates))


def line(number: int, candidate: CandidateFile, metric: MetricFacts = ACCURACY) -> CandidateLine:
    """Write one candidate."""
    gap, time, factor = candidate.difference, candidate.milliseconds, candidate.speedup
    return CandidateLine(
        number=number,
        label=candidate.label,
        state=candidate.state,
        verdict=_WORDS[candidate.state],
        tone=_TONES[candidate.state],
        reason=candidate.reason,
        engine=candidate.engine or numbers.DASH,
        precision=Cell(candidate.precision, candidate.scheme or ""),
        calibration=candidate.calibration or numbers.DASH,
        recovery=", ".join(candidate.recovery) or numbers.DASH,
        in_float=_in_float(candidate),
        nodes=candidate.float_nodes,
        decibels=format_decibels(candidate.decibels),
        accuracy=Cell(numbers.score(candidate.accuracy, metric), _change(gap, metric) if gap else ""),
        latency=Cell(numbers.milliseconds(time.value), numbers.bounds(time)) if time else Cell(),
        speedup=Cell(numbers.ratio(factor.value), numbers.bounds(factor)) if factor else Cell(),
        saturated=_sums(candidate.saturated),
        size=numbers.size(candidate.size_bytes),
    )


def layer_lines(plan: PrecisionPlan) -> tuple[LayerLine, ...]:
    """Return the layers that were tried in float."""
    return tuple(_layer(choice) for choice in plan.layers)


def tooltip_lines(found: CandidateLine) -> str:
    """Describe one candidate in a few lines, for a tooltip."""
    how = (found.engine, found.precision.text, found.precision.note, found.calibration, found.recovery)
    numbers_of_it = (
        ("accuracy", found.accuracy),
        ("latency", found.latency),
        ("speedup", found.speedup),
        ("signal to noise", Cell(found.decibels)),
        ("size", Cell(found.size)),
    )
    taken = (f"{name} {cell.text} {cell.note}".rstrip() for name, cell in numbers_of_it if cell.text != numbers.DASH)
    verdict = f"{found.verdict}: {found.reason}" if found.reason else found.verdict
    return "\n".join([found.label, ", ".join(text for text in how if text not in {"", numbers.DASH}), *taken, verdict])


def _searched(row: Row) -> bool:
    return PLAN in row.changed


def _calibration(plan: PrecisionPlan) -> str:
    moved = ", ".join(f"{format_share(share)} at {count:,}" for count, share in sorted(plan.calibration_moved.items()))
    images = numbers.plural(plan.calibration_images, "training image")
    return f"{images}; ranges moved by {moved}" if moved else images


def _change(gap: Interval, metric: MetricFacts) -> str:
    return f"{numbers.score_change(gap.value, metric)} {numbers.score_interval(gap, metric)}"


def _whole(factor: Interval) -> str:
    return f"{numbers.ratio(factor.value)} {numbers.bounds(factor)}"


def _sentence(reason: str) -> str:
    """End a reason with one full stop."""
    return f"{reason[0].upper()}{reason[1:].rstrip('.')}." if reason else ""


def _in_float(candidate: CandidateFile) -> str:
    """Write how many nodes stayed in float; a dash for the float file and for a file that was never made."""
    made = candidate.engine is not None and candidate.size_bytes is not None
    return str(len(candidate.float_nodes)) if made or candidate.float_nodes else numbers.DASH


def _sums(number: float | None) -> str:
    if number is None:
        return numbers.DASH
    return numbers.count(round(number)) if number >= 1000 else numbers.significant(number)  # noqa: PLR2004 - a prefix


def _layer(choice: LayerChoice) -> LayerLine:
    gained, factor = choice.decibels_gained, choice.speedup
    return LayerLine(
        name=choice.name,
        nodes=choice.nodes,
        decibels=numbers.DASH if gained is None else f"{numbers.signed(gained, 1)} dB",
        speedup=Cell(numbers.ratio(factor.value), numbers.bounds(factor)) if factor else Cell(),
        verdict="left in float" if choice.left_in_float else "quantized",
        reason=choice.reason,
    )
