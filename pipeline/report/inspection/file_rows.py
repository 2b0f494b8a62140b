"""An inspected file as text that every form of it shares: headline figures, what loses most, a line for each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report import numbers
from pipeline.report.inspection.network_rows import TIMES, Figure, share
from pipeline.results.file_inspection import INTEGERS, SQNR_CEILING_DB

if TYPE_CHECKING:
    from pipeline.results.file_inspection import FileInspection, FileLayer, Quantizer, Weights

#: Layers of the table of those that lose most.
MOST = 5
EXACT = "exact"


@dataclass(frozen=True)
class LayerLine:
    """One layer as a table shows it."""

    name: str
    operator: str
    computed: str
    weights: str
    range: str
    parameters: str
    macs: str
    size: str
    time: str
    sqnr: str
    own: str
    precision: str


def figures(inspection: FileInspection) -> tuple[Figure, ...]:
    """Return the headline: how much computes on integers, size, operations, noise at the end, time between layers."""
    whole = [layer for layer in inspection.layers if layer.computed_in in INTEGERS]
    shapes = " and ".join(TIMES.join(map(str, spec.shape[1:])) for spec in inspection.inputs)
    last = inspection.layers[-1] if inspection.layers else None
    profile = inspection.profile
    return (
        Figure(
            "On integers",
            f"{len(whole)} of {len(inspection.layers)}",
            f"layers, with {share(inspection.integer_macs, inspection.macs)} of the MACs",
        ),
        Figure(
            "Parameters", numbers.count(inspection.parameters), f"in a file of {numbers.size(inspection.size_bytes)}"
        ),
        Figure("MACs", numbers.count(inspection.macs), f"of one input {shapes}"),
        Figure(
            "Noise at the end",
            format_decibels(None if last is None else last.sqnr_db),
            f"signal-to-quantization-noise ratio of {last.name}"
            if last and last.sqnr_db is not None
            else _NOT_COMPARED,
        ),
        Figure(
            "Between layers",
            numbers.DASH if profile is None else format_share(profile.elsewhere_ns / (profile.time_ns or 1.0)),
            "of the profiled time: conversions of type and layout" if profile else "not profiled",
        ),
    )


_NOT_COMPARED = "not measured: give the float file with --against"


def has_integers(inspection: FileInspection) -> bool:
    """Say whether any layer computes on integers or has weights of few bits."""
    return any(layer.computed_in in INTEGERS or layer.precision == "weight-only" for layer in inspection.layers)


def about(inspection: FileInspection) -> tuple[str, ...]:
    """Return on what terms the numbers were taken."""
    told = [f"Run on {inspection.samples}."]
    if inspection.against is not None:
        told.append(f"Compared with {inspection.against}, without optimisations.")
    if profile := inspection.profile:
        threads = numbers.plural(profile.threads, "thread")
        told.append(f"Time: {profile.runtime} {profile.version}, {threads}, {profile.runs} runs; {profile.note}.")
    return tuple(told)


def layer_lines(inspection: FileInspection) -> tuple[LayerLine, ...]:
    """Return the rows of the layer table in the order of computation."""
    return tuple(line(layer, inspection) for layer in inspection.layers)


def line(layer: FileLayer, inspection: FileInspection) -> LayerLine:
    """Write one layer."""
    return LayerLine(
        name=layer.name,
        operator=layer.operator,
        computed=computed(layer),
        weights=weights(layer.weights),
        range=span(layer.makes),
        parameters=numbers.count(layer.parameters) if layer.parameters else numbers.DASH,
        macs=numbers.count(layer.macs),
        size=numbers.size(layer.size_bytes) if layer.size_bytes else numbers.DASH,
        time=format_share(inspection.time_share(layer)),
        sqnr=format_decibels(layer.sqnr_db),
        own=format_decibels(layer.own_sqnr_db),
        precision=layer.computed_in,
    )


def loses_most(inspection: FileInspection) -> tuple[LayerLine, ...]:
    """Return the few layers that lose most, the noisiest first; none where no noise was measured."""
    return tuple(line(layer, inspection) for layer in inspection.loses_most[:MOST])


def computed(layer: FileLayer) -> str:
    """Describe what a layer computes in, and what the file asked for where that is another."""
    if layer.computed_in == layer.precision:
        return layer.precision
    return f"{layer.precision} {numbers.ARROW} {layer.ran_in}"


def weights(found: Weights | None) -> str:
    """Describe type, scales and zero points of stored weights: 'int8, 16 scales'."""
    if found is None:
        return numbers.DASH
    quantizer = found.quantizer
    if quantizer is None:
        return found.dtype
    kind = found.dtype if found.dtype.endswith(f"int{quantizer.bits}") else quantizer.dtype
    if quantizer.scale_min is None:
        return kind
    points = (quantizer.zero_point_min, quantizer.zero_point_max)
    shifted = "" if points == (0, 0) else f", zero {points[0]}" + (f"..{points[1]}" if points[0] != points[1] else "")
    return f"{kind}, {numbers.plural(quantizer.scales, 'scale')}{shifted}"


def span(quantizer: Quantizer | None) -> str:
    """Tell the values that a quantized output can have."""
    if quantizer is None or quantizer.low is None or quantizer.high is None:
        return numbers.DASH
    return f"{_short(quantizer.low)} {_TO} {_short(quantizer.high)}"


_TO = "to"


def _short(number: float) -> str:
    text = f"{abs(number):.3g}"
    return f"{numbers.MINUS}{text}" if number < 0 else text


def format_decibels(ratio: float | None) -> str:
    """Write a ratio in dB with one decimal; the ceiling as equality."""
    if ratio is None:
        return numbers.DASH
    return EXACT if ratio >= SQNR_CEILING_DB else f"{numbers.MINUS if ratio < 0 else ''}{abs(ratio):.1f} dB"


def format_share(fraction: float | None) -> str:
    """Write a share with one decimal."""
    return numbers.DASH if fraction is None else f"{100 * fraction:.1f} %"


def tooltip_lines(layer: FileLayer, inspection: FileInspection) -> str:
    """Describe one layer in a few lines, for a tooltip."""
    here = line(layer, inspection)
    lines = [f"{layer.name}: {layer.operator}, {here.computed}"]
    if layer.ran_as:
        lines.append(f"ran as {layer.ran_as}")
    if layer.fused_into:
        lines.append(f"computed within {layer.fused_into}")
    if layer.weights:
        lines.append(f"weights {here.weights}, {layer.weights.bits} bits, {here.size}")
    lines += [f"reads {each.dtype} of {each.tensor}: {span(each)}" for each in layer.reads]
    if layer.makes:
        lines.append(f"makes {layer.makes.dtype}: {here.range}, scale {_short(layer.makes.scale_max or 0.0)}")
    if layer.macs:
        lines.append(f"{here.macs} MACs, {here.parameters} parameters")
    if layer.time_ns is not None:
        lines.append(f"{here.time} of the profiled time")
    if layer.sqnr_db is not None:
        own = f", {here.own} alone" if layer.own_sqnr_db is not None else ""
        lines.append(f"signal to noise {here.sqnr}{own}")
    if layer.dead_channels:
        lines.append(f"{layer.dead_channels} of {layer.channels} channels never change")
    return "\n".join(lines)
